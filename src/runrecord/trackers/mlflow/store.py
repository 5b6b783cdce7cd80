"""Where MLflow keeps runs: the server of `MLFLOW_TRACKING_URI`, else one SQLite file.

What it showed when it was last looked at is noted in `.runrecord/shown/`, a file for each store and
experiment: that nothing is to do, local files alone tell. Without it, MLflow is asked. What a
failure of it means, and what a person can do about it, is here too.
"""

import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from runrecord.errors import UserError, require
from runrecord.files import remove_unfinished, sha256, write_atomic
from runrecord.project import load_project
from runrecord.safety.secrets import redact
from runrecord.safety.text import clause, reason
from runrecord.store.runs import held, state_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from requests import Response

_START = "start it, or correct MLFLOW_TRACKING_URI and its user and password"
_FROM_RECORDS = "and run 'runrecord sync --all'"
_ANOTHER = "it answers, but not as MLflow does: something else is at that address"
_STATUS = re.compile(r"failed with error code (\d{3})|too many (\d{3}) error|: (\d{3}) \w+ Error")
_TROUBLES = (
    (
        r"found version \w+|Can't locate revision",
        "{store} is of another MLflow than this one, {version}",
        "install that one; or, if that is older, keep a copy of it and run: mlflow db upgrade "
        "{address}",
    ),
    (
        r"sqlite3\.\w+: .*locked",
        "{store} is locked by another process",
        f"end the one that writes it, {_FROM_RECORDS}",
    ),
    (
        r"sqlite3\.\w+: .*(readonly|unable to open)",
        "{store} cannot be opened and written",
        f"correct its permissions, and its folder's, {_FROM_RECORDS}",
    ),
    (r"sqlite3\.\w+: .*full", "the disk of {store} is full", f"make room, {_FROM_RECORDS}"),
    (
        r"sqlite3\.\w+: .*(malformed|not a database)",
        "{store} is damaged",
        f"remove {{store}}, {{store}}-wal and {{store}}-shm together, {_FROM_RECORDS}",
    ),
    (
        r"filesystem tracking backend|unsupported URI|SQLAlchemy URL|sqlalchemy.dialects|Catalog t",
        "MLflow keeps no runs in '{store}'",
        "set MLFLOW_TRACKING_URI to http://HOST:PORT or sqlite:///FILE",
    ),
    (
        r"UNAUTHENTICATED|HTTP 401",
        "it does not know {user} by that password (401)",
        "correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    ),
    (
        r"PERMISSION_DENIED|HTTP 403",
        "{user} lacks rights on the experiment '{experiment}' there (403)",
        "have READ and EDIT granted, or name another experiment by MLFLOW_EXPERIMENT_NAME",
    ),
    (r"ENDPOINT_NOT_FOUND.*/experiments/", _ANOTHER, ""),  # which any MLflow has
    (
        r"ENDPOINT_NOT_FOUND",
        "it is older than MLflow 3",
        "upgrade it: pip install --upgrade mlflow",
    ),
    (r"HTTP \d+", "it answers {status}", ""),
    (r"valid JSON format|JSONDecodeError", _ANOTHER, ""),
)
"""By what is said, the errors' types and codes included: why; and the remedy, if there is one."""
_SQLITE = "sqlite:///"
_LONG = 20.0  # seconds that another process which writes the file may take
_SAY_TWICE = ("mlflow.exceptions", "mlflow.store.db.utils", "urllib3")
"""Loggers that print, some with a traceback, what is raised as well and said in a sentence."""
_FRESH = 5.0  # seconds since the last write of a file that is still being written
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""What the addresses of databases begin with that MLflow uses without a server."""
_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI's view for training runs


def tracking_uri(root: Path) -> str:
    """The address of the tracking store, for a main repository rooted at `root`."""
    given = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if given.startswith(_SQLITE) and not given.startswith(f"{_SQLITE}/"):
        return f"{_address(root)}/{given.removeprefix(_SQLITE)}"
    return given


def _address(path: Path) -> str:
    """The address of a database, or of a folder: `?` and `%41` mean something else in it."""
    return _SQLITE + re.sub(r"%(?=[0-9A-Fa-f]{2})|\?", lambda found: quote(found[0]), str(path))


def database_of(root: Path) -> Path | None:
    """The SQLite file that is the tracking store; None of a server or another database."""
    uri, _, _settings = tracking_uri(root).partition("?")
    return Path(unquote(uri.removeprefix(_SQLITE))) if uri.startswith(_SQLITE) else None


def is_database(uri: str) -> bool:
    """Is that tracking store a database that MLflow uses without a server?"""
    return uri.partition(":")[0].partition("+")[0] in _DATABASES


def artifact_location(root: Path) -> str:
    """Where a store without a server keeps artifacts; its own default would depend on the cwd."""
    return (root / "mlruns").as_uri()


def experiment_name(root: Path) -> str:
    """What MLflow calls the experiment: as a person says, the project, or the folder."""
    given = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    return given or load_project(root).experiment or root.name


def connect(root: Path) -> "tuple[MlflowClient, str]":
    """A client of the tracking store, and the id of our experiment there, made if missing."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # twice asked for, a run is there twice
    # A server that is gone would block each call for minutes with MLflow's own defaults.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    require("mlflow", "MLflow", "mlflow")
    from mlflow import MlflowClient

    refuse_empty_answers()
    for name in _SAY_TWICE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    uri, name = tracking_uri(root), experiment_name(root)
    if uri == "sqlite://":  # in memory: nobody would see it
        raise ValueError("unsupported URI")
    if not is_database(uri):
        client = MlflowClient(uri)
        return client, _own_experiment(client, name, None).experiment_id

    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = 3  # a database that is gone or damaged would block for 100 s
    # Processes that create the database at once crash each other in its migration.
    with held(state_folder(root) / "mlflow.lock"):
        location, database = artifact_location(root), database_of(root)
        if database:
            if not database.exists() or not _finds(database, "SELECT 1 FROM sqlite_master"):
                _create(database, state_folder(root) / "new-database")
            _wait_until_made(database)
        client = MlflowClient(uri)
        own = _own_experiment(client, name, location)
        if database:
            _check_place(own, database, location)
        return client, own.experiment_id


def _finds(database: Path, query: str) -> bool:
    """Has a query of a database a row?"""
    with closing(sqlite3.connect(database, timeout=_LONG)) as connection:
        return connection.execute(query).fetchone() is not None


def _wait_until_made(database: Path) -> None:
    """Wait while another process makes the tables, as a script that uses MLflow itself does.

    Both fail if two do at once. The file is written all the while, an experiment last.
    """
    deadline = time.monotonic() + _LONG
    while time.time() - database.stat().st_mtime < _FRESH and time.monotonic() < deadline:
        with suppress(sqlite3.OperationalError):  # there is no such table yet
            if _finds(database, "SELECT 1 FROM experiments"):
                return
        time.sleep(0.1)


def _create(database: Path, scratch: Path) -> None:
    """Put MLflow's empty tables into `database`, all at once; `scratch` is a folder of our own.

    Killed in the middle of its migrations, MLflow would leave a file that it never opens again.
    A database that somebody else makes meanwhile, as a script that uses MLflow itself does, stays.
    """
    from mlflow import MlflowClient

    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    new = scratch / database.name
    MlflowClient(_address(new)).search_experiments(max_results=1)
    with closing(sqlite3.connect(new)) as connection:
        _, *statements, _ = connection.iterdump()  # without its BEGIN and COMMIT
    database.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database, timeout=_LONG, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        mine = not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        for statement in statements if mine else ():
            connection.execute(statement)
        connection.execute("COMMIT")
        if mine:
            connection.execute("PRAGMA journal_mode=WAL")
    shutil.rmtree(scratch)


def _check_place(found: "Experiment", database: Path, location: str) -> None:
    """Refuse a store whose folder was moved or copied: MLflow writes down whole addresses.

    Raises:
        UserError: it keeps its files elsewhere.
    """
    there = found.artifact_location
    # A project in a subfolder, which shares the database, has its own artifacts there.
    ours = there == location or not there.endswith("/mlruns") or not there.startswith("file:")
    if not ours and not there.startswith(f"{location.removesuffix('/mlruns')}/"):
        raise UserError(
            f"{database} was moved or copied: its pictures and models are in {there}; remove it, "
            "and run 'runrecord sync --all'."
        )


def _own_experiment(client: "MlflowClient", name: str, location: str | None) -> "Experiment":
    """Our experiment, made where it is missing, with its artifacts at `location`.

    One that a person deleted is brought back: its name stays taken.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.get_experiment(client.create_experiment(name, location, _TAGS))
        except MlflowException:  # somebody else may have been first to create it
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found


@dataclass(frozen=True)
class Shown:
    """What the tracking store has of a run."""

    run_id: str  # MLflow's; empty once it was removed for good
    start: int
    events: int  # how many of its record's it shows for certain: 0 while it goes on
    deleted: bool = False  # by a person
    model_id: str = ""  # of the model that it made, if it made one


@dataclass(frozen=True)
class Look:
    """What was seen when the tracking store was last looked at."""

    experiment: str = ""  # its id, and when it was made
    stamp: str = ""  # of the store's files
    runs: dict[str, Shown] = field(default_factory=dict)  # by the records' ids


_LOOK = TypeAdapter(Look)


def last_look(root: Path) -> Look:
    """What is noted of our experiment in the tracking store; nothing where that cannot be read."""
    try:
        return _LOOK.validate_json(_note(root).read_bytes())
    except (OSError, ValidationError):
        return Look()


def keep_look(root: Path, experiment: str, runs: dict[str, Shown]) -> None:
    """Note what the store shows now."""
    if database := database_of(root):
        with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else its end changes it
    look = Look(experiment, stamp_of(root), runs)
    remove_unfinished(_note(root).parent, ".*")
    with suppress(OSError):  # it is asked again, then
        write_atomic(_note(root), _LOOK.dump_json(look))


def is_unchanged(root: Path, look: Look) -> bool:
    """Is the store as it was then? Of a server that cannot be known."""
    return bool(look.stamp) and look.stamp == stamp_of(root)


def stamp_of(root: Path) -> str:
    """The sizes and times of MLflow's files here; nothing without a database."""
    database, runs, found = database_of(root), root / "mlruns", []
    if database is None or not database.exists():
        return ""
    for file in (database, Path(f"{database}-wal"), runs, runs / "models"):
        with suppress(OSError):
            stat = file.stat()
            if stat.st_size:  # an empty log is none
                found.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
    return ", ".join(found)


def _note(root: Path) -> Path:
    name = sha256(f"{tracking_uri(root)} {experiment_name(root)}".encode())[:16]
    return state_folder(root) / "shown" / f"{name}.json"


def store_failure(error: Exception, root: Path) -> UserError:
    """The tracking store did not do what it was asked to."""
    why = explain(error, root, otherwise=_START)
    return UserError(f"MLflow's tracking store cannot be used: {why}.")


def explain(error: Exception, root: Path, otherwise: str = "") -> str:
    """Why a call failed, as a clause, with the remedy: `otherwise`, where none is known."""
    chain = list(_chain(error))
    said = "\n".join(
        f"{getattr(one, 'error_code', '')} {type(one).__module__}.{type(one).__name__}: {one}"
        for one in chain
    )
    status = next((found[found.lastindex or 0] for found in _STATUS.finditer(said)), "")
    said += f"\nHTTP {status}" if status else ""
    for pattern, why, remedy in _TROUBLES:
        if re.search(pattern, said):
            told = _told(root) | {"status": status}
            return "; ".join(filter(None, [why, remedy or otherwise])).format_map(told)
    return "; ".join(filter(None, [_innermost(chain), otherwise]))


def _told(root: Path) -> dict[str, str]:
    """What the sentences name."""
    import mlflow

    database, uri = database_of(root), tracking_uri(root)
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    return {
        "store": str(database or redact(uri)),
        "address": f"'{uri}'" if database else '"$MLFLOW_TRACKING_URI"',
        "version": mlflow.__version__,
        "user": f"user '{user}'" if user else "your user",
        "experiment": experiment_name(root),
    }


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _innermost(chain: list[BaseException]) -> str:
    """What the system said: that keeps a call from its answer, whatever was made of it."""
    for error in reversed(chain):
        match error:
            case TimeoutError():
                return "no answer in time"
            case OSError(strerror=str(why)) | OSError(args=(str(why),)):
                return clause(f"{error.filename}: {why}" if error.filename else why)
    return reason(chain[0])


@cache
def refuse_empty_answers() -> None:
    """Let MLflow take no empty answer for an empty list: what is there would be made again."""
    from mlflow.utils import rest_utils

    verify = rest_utils.verify_rest_response

    def verified(answer: "Response", *given: Any, **named: Any) -> Any:
        if answer.ok and not answer.content:
            raise OSError("it answers with nothing")
        return verify(answer, *given, **named)

    rest_utils.verify_rest_response = verified
