"""Where MLflow keeps runs: the server of `MLFLOW_TRACKING_URI`, else one SQLite file."""

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from runrecord.errors import UserError, require
from runrecord.project import load_project
from runrecord.store.processes import held
from runrecord.store.runs import state_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_SQLITE = "sqlite:///"
_LONG = 20.0  # seconds that another process which writes the file may take
_SAY_TWICE = (
    *("mlflow.exceptions", "mlflow.store.db.utils", "urllib3.connectionpool"),
    "urllib3.util.retry",
)
"""Loggers that print, some with a traceback, what is raised as well and said in a sentence."""
_FRESH = 2.0  # seconds since the last write of a file that is still being written
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""What the addresses of databases begin with that MLflow uses without a server."""
_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI's view for training runs


def tracking_uri(root: Path) -> str:
    """The address of the tracking store, for a main repository rooted at `root`."""
    given = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if is_embedded(given):
        return f"{_SQLITE}{root / given.removeprefix(_SQLITE)}"  # an absolute path stays itself
    return given


def is_embedded(uri: str) -> bool:
    """Is that tracking store a SQLite file of ours, and no server?"""
    return uri.startswith(_SQLITE)


def database_of(uri: str) -> Path:
    """The SQLite file of an embedded store."""
    return Path(uri.removeprefix(_SQLITE))


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
    # A server that is gone would block each call for minutes with MLflow's own defaults.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")  # it may be an hour
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    require("mlflow", "MLflow", "mlflow")
    from mlflow import MlflowClient

    from runrecord.trackers.mlflow.http import guard

    guard()
    for name in _SAY_TWICE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    uri, name = tracking_uri(root), experiment_name(root)
    if not is_database(uri):
        client = MlflowClient(uri)
        return client, _own_experiment(client, name, None)

    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = 3  # a database that is gone or damaged would block for 100 s
    # Processes that create the database at once crash each other in its migration.
    with held(state_folder(root) / "mlflow.lock"):
        location = artifact_location(root)
        if is_embedded(uri):
            database = database_of(uri)
            if not _has_tables(database):
                _create(database, state_folder(root) / "new-database")
        client = MlflowClient(uri)
        own = _once_made(lambda: _own_experiment(client, name, location), uri)
        if is_embedded(uri):
            _check_place(client.get_experiment(own), database, location)
        return client, own


def _once_made(call: Callable[[], str], uri: str) -> str:
    """What a call gives, once a script that uses MLflow itself has made the database's tables.

    While another process makes them, MLflow fails in many ways; the file is written all the while.
    """
    deadline = time.monotonic() + _LONG
    while True:
        try:
            return call()
        except Exception:
            written = is_embedded(uri) and time.time() - database_of(uri).stat().st_mtime < _FRESH
            if not written or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def key_of(experiment: "Experiment") -> str:
    """What tells an experiment from one that was made anew under its name."""
    return f"{experiment.experiment_id}-{experiment.creation_time}"


def _has_tables(database: Path) -> bool:
    """Is anything in that file, and not just a name that a process reserved?"""
    if not database.exists():
        return False
    with closing(sqlite3.connect(database, timeout=_LONG)) as connection:
        return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None


def _create(database: Path, scratch: Path) -> None:
    """Put MLflow's empty tables into `database`, all at once; `scratch` is a folder of our own.

    Killed in the middle of its migrations, MLflow would leave a file that it never opens again.
    A database that somebody else makes meanwhile, as a script that uses MLflow itself does, stays.
    """
    from mlflow import MlflowClient

    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    new = scratch / database.name
    MlflowClient(f"{_SQLITE}{new}").search_experiments(max_results=1)
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


def _own_experiment(client: "MlflowClient", name: str, location: str | None) -> str:
    """The id of our experiment, made where it is missing, with its artifacts at `location`."""
    from mlflow.exceptions import MlflowException

    try:
        return _experiment(client, name) or client.create_experiment(name, location, _TAGS)
    except MlflowException:  # somebody else may have been first to create it
        if found := _experiment(client, name):
            return found
        raise


def _experiment(client: "MlflowClient", name: str) -> str | None:
    """The id of our experiment, brought back where a person deleted it: its name stays taken."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
