"""What failures of MLflow mean: why, and what a person can do about it, in one sentence."""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runrecord.errors import UserError
from runrecord.safety.secrets import redact
from runrecord.safety.text import clause, reason
from runrecord.trackers.mlflow.store import database_of, experiment_name, tracking_uri

if TYPE_CHECKING:
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
