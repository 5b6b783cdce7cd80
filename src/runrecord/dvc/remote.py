"""DVC's default remote: what it gives, and in a sentence why it gives nothing."""

import logging
import re
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runrecord.errors import UserError
from runrecord.safety.secrets import redact
from runrecord.safety.text import reason

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB

given_up: set[str] = set()
"""The repositories whose remote failed this process: another try could last as long."""


def fetch(repo: "Repo", oids: Collection[str]) -> None:
    """Bring into DVC's cache what the remote, if there is one, has under those hashes.

    Raises:
        UserError: it cannot be used; said once, and it is not tried again.
    """
    from dvc.logger import set_loggers_level
    from dvc_data.hashfile.hash_info import HashInfo

    if not oids or repo.root_dir in given_up:
        return
    try:
        with _refusals_said(repo):
            odb = _remote(repo)
            if odb is not None:
                with set_loggers_level(logging.ERROR):  # what is nowhere is for others to say
                    done = repo.cloud.pull([HashInfo("md5", oid) for oid in oids], odb=odb)
                if len(done.transferred) < len(oids):
                    _look(odb)  # DVC takes a bucket that is not there for an empty one
    except UserError:
        given_up.add(repo.root_dir)
        raise


def state(repo: "Repo") -> tuple[str, str] | None:
    """The remote's address and what can be said of it; None if there is none.

    Raises:
        UserError: it cannot be used.
    """
    with _refusals_said(repo):
        odb = _remote(repo)
        return None if odb is None else (_address(repo), _look(odb))


def lacking(repo: "Repo", oids: Collection[str]) -> Collection[str]:
    """Those of these hashes that the remote, if there is one, does not have; nothing is fetched.

    Raises:
        UserError: it cannot be used.
    """
    with _refusals_said(repo):
        odb = _remote(repo) if oids else None
        if odb is not None:
            oids = {*oids} - {*odb.oids_exist(list(oids))}  # type: ignore[no-untyped-call]
            if oids:
                _look(odb)
    return oids


def _remote(repo: "Repo") -> "HashFileDB | None":
    from dvc.config import NoRemoteError

    try:
        found: HashFileDB = repo.cloud.get_remote_odb(command="fetch")
    except NoRemoteError:
        return None
    return found


def _look(odb: "HashFileDB") -> str:
    """Ask whether anything is there."""
    from dvc_objects.fs.base import ObjectFileSystem
    from dvc_objects.fs.local import LocalFileSystem

    try:
        odb.fs.info(odb.path)
    except FileNotFoundError as error:
        if isinstance(error.__cause__, OSError):  # of HTTP: nobody answered
            raise error.__cause__ from None
        if isinstance(odb.fs, ObjectFileSystem):
            odb.fs.info(odb.path.partition("/")[0])  # the bucket
        if isinstance(odb.fs, LocalFileSystem):  # its disk may not be mounted
            raise
        return "answers, nothing is pushed yet"
    return "answers"


def _address(repo: "Repo") -> str:
    name = repo.config["core"]["remote"]
    return redact(repo.config["remote"].get(name.lower(), {}).get("url", name))


@contextmanager
def _refusals_said(repo: "Repo") -> Iterator[None]:
    """Say what a remote of any kind does not do, as a UserError; not what this machine does not."""
    try:
        yield
    except sqlite3.Error:  # of DVC's notes
        raise
    except Exception as error:  # each kind has its own
        if str(getattr(error, "filename", None)).startswith(repo.cache.local.path):
            raise
        raise UserError(f"{_address(repo)} {_refusal(repo, error)}.") from None


def _refusal(repo: "Repo", error: Exception) -> str:
    """What it does not do, and what to do about it."""
    package = re.search(r"(?<=requires ')dvc-\w+", str(error))
    if isinstance(error, ImportError) and package:
        return f"needs a package that is not installed; run 'pip install {package[0]}'"
    modify = f"'dvc remote modify --local {repo.config['core']['remote']} …'"
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return f"does not let you in ({reason(error)}); name the right user and key with {modify}"
    if isinstance(error, FileNotFoundError) and error.filename:  # a folder of this machine's
        return "is not there; mount its disk, or let 'dvc push' make the folder"
    if isinstance(error, FileNotFoundError):
        return f"is not there ({reason(error)}); make the bucket, or correct its name with {modify}"
    why = "it took too long" if isinstance(error, TimeoutError) else reason(error)
    return f"does not answer ({why}); start it, or correct its address with {modify}"
