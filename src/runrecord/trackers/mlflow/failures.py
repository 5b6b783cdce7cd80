"""How calls of MLflow fail: in time, and in a sentence that says what a person can do about it."""

import os
import re
import socket
import sqlite3
import ssl
import time
from collections.abc import Iterator
from functools import cache
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runrecord.errors import UserError
from runrecord.safety.secrets import redact
from runrecord.safety.text import clause, reason
from runrecord.trackers.mlflow.store import database_of, experiment_name, tracking_uri

if TYPE_CHECKING:
    from requests import Response, Session

LONGEST = 60.0  # seconds that an answer may take to arrive whole
_LARGEST = 2**28  # bytes of one
_APIS = ("/api/2.0/mlflow", "/api/3.0/mlflow")
_NO_MLFLOW = "answers, but not as MLflow does: something else is at that address"
_STATUS = re.compile(r"failed with error code (\d{3})|too many (\d{3}) error|^(\d{3}) \w+ Error")
_REVISION = re.compile(r"found version (\w+)|Can't locate revision identified by '(\w+)'")
_READS = re.compile(r"/(get|get-by-name|get-history\w*|search|list)\b")
_REFUSALS = {
    401: (
        "UNAUTHENTICATED",
        "it does not know {who} by that password (401)",
        "correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    ),
    403: (
        "PERMISSION_DENIED",
        "{who} lacks the right {right} on the experiment '{name}' there (403)",
        "have it granted, or name another experiment by MLFLOW_EXPERIMENT_NAME",
    ),
    413: (
        None,
        "something is larger than it, or a proxy before it, takes (413)",
        "raise that limit",
    ),
    429: ("RESOURCE_EXHAUSTED", "it is asked too often (429)", "sync again later"),
}
"""What a server, or what stands before it, does not let a user do: MLflow's word, why, remedy."""
_SQLITE = {
    "locked": ("is locked by another process", "end the one that writes it"),
    "readonly": ("cannot be written", "correct its permissions, and its folder's"),
    "unable to open": ("cannot be opened", "correct its permissions, and its folder's"),
    "full": ("has no room: its disk is full", "make room"),
    "malformed": ("is damaged", "remove {0}, {0}-wal and {0}-shm together"),
    "not a database": ("is no database", "remove {0}, {0}-wal and {0}-shm together"),
    "disk I/O": ("cannot be read or written: its disk fails", "move it to another disk"),
}
"""What SQLite says, what it means for the file, and the remedy."""


def store_failure(error: Exception, root: Path) -> UserError:
    """The tracking store did not do what it was asked to."""
    why, remedy = explain(error, root)
    if remedy:
        return UserError(f"MLflow's tracking store cannot be used: {why}; {remedy}.")
    return UserError(
        f"MLflow's tracking store does not answer ({why}); start it, or correct "
        "MLFLOW_TRACKING_URI and its user and password, and sync again."
    )


def explain(error: Exception, root: Path) -> tuple[str, str]:
    """Why a call failed, as a clause; and what to do about it, where that is known."""
    chain = list(_chain(error))
    said = " ".join(map(str, chain))
    if found := _REVISION.search(said):
        return _of_another_version(found[1] or found[2], root)
    by_sqlite = " ".join(str(one) for one in chain if isinstance(one, sqlite3.Error))
    if path := database_of(root):
        for words, (why, remedy) in _SQLITE.items():
            if words in by_sqlite:
                return f"{path} {why}", f"{remedy.format(path)}, and run 'runrecord sync --all'"
    codes = [found for one in chain if (found := _STATUS.search(str(one)))]
    status = int(codes[0][codes[0].lastindex or 0]) if codes else 0
    named = {getattr(one, "error_code", None) for one in chain}
    for number, (name, why, remedy) in _REFUSALS.items():
        if status == number or (name and name in named):
            user = os.environ.get("MLFLOW_TRACKING_USERNAME")
            who = f"user '{user}'" if user else "your user"
            right = "READ" if _READS.search(said) else "EDIT"
            if number == 403 and "experiments/create" in said:
                why = "{who} may not create the experiment '{name}' there (403)"
                remedy = "have somebody create it, or name another by MLFLOW_EXPERIMENT_NAME"
            return why.format(who=who, right=right, name=experiment_name(root)), remedy
    if "ENDPOINT_NOT_FOUND" in named and "/experiments/" in said:  # which any MLflow has
        return f"it {_NO_MLFLOW}", ""
    if "ENDPOINT_NOT_FOUND" in named:
        return "it is older than MLflow 3", "upgrade it: pip install --upgrade mlflow"
    if status:
        return f"it answers {status}", ""
    if "IncompleteRead" in said:
        return "its answer is cut off", ""
    if "valid JSON format" in said or any(isinstance(one, JSONDecodeError) for one in chain):
        return f"it {_NO_MLFLOW}", ""
    return _of_the_line(chain), ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _of_the_line(chain: list[BaseException]) -> str:
    """What kept a call from its answer: the innermost that tells of a connection."""
    for error in reversed(chain):
        match error:
            case socket.gaierror():
                return f"its name leads nowhere: {error.strerror}"
            case ssl.SSLCertVerificationError(verify_message=str(why)) if why:
                return f"TLS: {why}"
            case ssl.SSLError():
                return f"TLS: {error.reason or error}"
            case TimeoutError():
                return "no answer in time"
            case OSError(filename=str(file), strerror=str(why)):
                return clause(f"{file}: {why}")
            case OSError(strerror=str(why)) | OSError(args=(str(why),)):
                return clause(why)
    return reason(chain[0])


def _of_another_version(revision: str, root: Path) -> tuple[str, str]:
    """What to do about a database whose tables are another MLflow's."""
    import mlflow

    database, uri = database_of(root), tracking_uri(root)
    named = str(database or redact(uri))
    revisions = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if any(revisions.glob(f"{revision}_*")):
        address = f"'{uri}'" if database else '"$MLFLOW_TRACKING_URI"'
        return (
            f"{named} is of an older MLflow than this one, {mlflow.__version__}",
            f"keep a copy of it, and run: mlflow db upgrade {address}",
        )
    return (
        f"{named} is of a newer MLflow than this one, {mlflow.__version__}",
        "install the one that wrote it: pip install --upgrade mlflow",
    )


@cache
def check_answers() -> None:
    """Let all of MLflow's sessions in this process check what a server answers."""
    from mlflow.utils import request_utils

    make = request_utils._cached_get_request_session

    def session(*given: Any, **named: Any) -> "Session":
        made: Session = make(*given, **named)
        made.hooks["response"] = [_check_answer]
        return made

    request_utils._cached_get_request_session = session


def _check_answer(answer: "Response", stream: bool = False, **_given: Any) -> None:
    """Refuse an answer that does not end, and one of MLflow's API that is not MLflow's.

    MLflow takes an empty answer for an empty list, and follows an upload's redirection to a page
    that asks for a password, and finds that page.
    """
    from requests import ConnectionError as Broken
    from requests import codes

    address = urlsplit(answer.url)
    of_api = any(api in address.path for api in _APIS)
    if of_api and answer.is_redirect and answer.request.method != "GET":
        to = urlsplit(answer.headers["location"]).netloc or address.netloc
        raise Broken(f"it redirects to {to}, as to log in there")
    if stream or answer.is_redirect:
        return
    content, deadline = bytearray(), time.monotonic() + LONGEST
    for chunk in answer.iter_content(2**16):
        content += chunk
        if len(content) > _LARGEST or time.monotonic() > deadline:
            answer.close()
            raise Broken("its answer does not end")
    answer._content = bytes(content)
    begins = content.strip()[:1]
    uploaded = answer.request.method == "PUT" and not begins  # some servers answer with nothing
    if of_api and answer.status_code == codes.ok and not uploaded and begins != b"{":
        raise Broken(f"it {_NO_MLFLOW}")
