"""What DVC's cache and remote have of stages' outs and of data."""

import logging
import re
import sqlite3
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter, ValidationError

from runrecord.dvc.lockfiles import MD5, outs_at, states
from runrecord.dvc.stages import is_related, opened
from runrecord.errors import UserError
from runrecord.project import RECORDS
from runrecord.record.events import Files
from runrecord.safety.secrets import redact
from runrecord.safety.text import reason, shown

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB

given_up: set[str] = set()
"""The repositories whose remote failed this process: another try could last as long."""


def _warn(label: str, error: Exception) -> None:
    print(f"warning: {label}: {shown(str(error))}", file=sys.stderr)


def known_records(
    root: Path, on_failure: Callable[[str, Exception], None] = _warn
) -> Iterator[tuple[str, Files | None]]:
    """A label and the files of each record that DVC knows, the newest first; None if unavailable.

    Records that are not in DVC's cache are fetched from its remote; `on_failure` is told of one
    that cannot be used.
    """
    labels: dict[str, str] = {}
    for known in states(root):
        where = f"commit {known.commit[:10]}" if known.commit else "the working tree"
        for out in known.outs:
            if out.path.startswith(RECORDS):
                labels.setdefault(out.oid, f"{out.path} of {where}")
    with opened(root) as repo:
        had = _fetched(repo, labels, on_failure)
    for oid, label in labels.items():
        yield label, had[oid]


def records_at(root: Path, revision: str) -> dict[str, Files | None]:
    """The files of each record in a commit, branch, tag or DVC experiment, by the record's path.

    Raises:
        UserError: several experiments have that name.
        GitFailed: Git refuses.
    """
    oids = {out.path: out.oid for out in outs_at(root, revision) if out.path.startswith(RECORDS)}
    if not oids:
        return {}
    with opened(root) as repo:
        had = _fetched(repo, oids.values())
    return {path: had[oid] for path, oid in oids.items()}


@dataclass(frozen=True)
class _Listed:
    relpath: str
    md5: Annotated[str, Field(pattern=MD5.pattern)]


_LISTING = TypeAdapter(list[_Listed])


def _fetched(
    repo: "Repo", oids: Collection[str], on_failure: Callable[[str, Exception], None] = _warn
) -> dict[str, Files | None]:
    """The files of the outs with those hashes, fetched if need be; None if unavailable."""
    try:  # folders' listings and single files, then what the listings name
        _fetch(repo, [oid for oid in oids if not _cached(repo, oid).exists()])
        _fetch(repo, {lacked for oid in oids for lacked in _missing(_files(repo, oid))})
    except UserError as error:
        on_failure("DVC's remote", error)
    had = {oid: _files(repo, oid) for oid in oids}
    return {oid: None if _missing(files) else files for oid, files in had.items()}


def _files(repo: "Repo", oid: str) -> Files | None:
    """The files of the out with that hash in DVC's cache; some may be missing there."""
    path = _cached(repo, oid)
    if not path.exists():
        return None
    if not oid.endswith(".dir"):
        return {"": path}
    try:
        entries = _LISTING.validate_json(path.read_bytes())
    except ValidationError:  # damaged: the remote may have it
        return None
    return {entry.relpath: _cached(repo, entry.md5) for entry in entries}


def _cached(repo: "Repo", oid: str) -> Path:
    """Where DVC's cache has, or would have, what has that hash."""
    return Path(repo.cache.local.oid_to_path(oid))


def _missing(files: Files | None) -> set[str]:
    """The hashes of those files that the cache lacks."""
    return {path.parent.name + path.name for path in (files or {}).values() if not path.exists()}


def share_cache(
    root: Path, checkout: Path, links: str = "reflink,hardlink,copy", notes: Path | None = None
) -> None:
    """Let a clone's DVC repository, `checkout`, use the cache, remotes and settings of `root`.

    Args:
        root: the DVC repository.
        checkout: its clone.
        links: how it takes what is in the cache, as DVC's `cache.type` names it.
        notes: the folder of what DVC notes of files, if it is the clone's own.

    Raises:
        UserError: DVC refuses to open the repository.
    """
    from configobj import ConfigObj
    from dvc.config import Config

    with opened(root) as repo:
        cache = repo.cache.local_cache_dir
        # One that is relative would lead elsewhere from the clone.
        remotes = {name: one["url"] for name, one in repo.config["remote"].items()}
        default = repo.config["core"].get("remote")  # the commit may be older than it
    local = Path(".dvc", "config.local")
    config = ConfigObj(str(root / local), encoding="utf-8")  # DVC itself writes ASCII alone
    config.filename = str(checkout / local)
    for name, address in remotes.items():
        config.setdefault(f'remote "{name}"', {})["url"] = address
    core = config.setdefault("core", {})
    if default and "remote" not in Config(str(checkout / ".dvc"), validate=False)["core"]:
        core["remote"] = default
    if notes:
        core["site_cache_dir"] = str(notes)
    config.setdefault("cache", {}).update({"dir": cache, "type": links})
    config.write()


def missing_outs(root: Path) -> tuple[Path, list[str], int]:
    """DVC's cache, which outs of the workspace it lacks, and how many there are.

    Raises:
        UserError: DVC cannot read its files.
    """
    with opened(root) as repo:
        outs = [out for out in repo.index.outs if out.use_cache]
        missing = [str(out) for out in outs if not out.hash_info or out.changed_cache()]
        return Path(repo.cache.local.path), missing, len(outs)


def remote_state(root: Path) -> tuple[str, str] | None:
    """The address of DVC's default remote and what can be said of it; None if there is none.

    Raises:
        UserError: it cannot be used.
    """
    with opened(root) as repo, _refusals_said(repo):
        if "remote" not in repo.config["core"]:
            return None
        return _address(repo), _look(repo.cloud.get_remote_odb(command="fetch"))


def bring(checkout: Path, paths: Collection[str]) -> str:
    """Put in a checkout what its DVC files name at those paths, inside them, or around them.

    It comes from DVC's cache, its remote or, if it was imported, from its source. Returns why
    something did not come, or nothing; the rest is there.

    Raises:
        UserError: DVC cannot read its files.
    """
    from dvc.exceptions import DvcException
    from dvc.logger import set_loggers_level

    # DVC takes a target for the name of a stage, too: of one in the folder that it works in.
    with opened(checkout) as repo, chdir(checkout), set_loggers_level(logging.CRITICAL):
        why = ""
        for target in _targets(repo, checkout.resolve(), paths):
            try:
                repo.fetch(targets=[target])
            except Exception as error:  # each kind of remote has its own
                why = reason(error)
            try:
                repo.checkout(targets=[target], force=True, allow_missing=True)
            except (DvcException, OSError) as error:
                why = why or reason(error)
    return why


def _targets(repo: "Repo", root: Path, paths: Collection[str]) -> list[str]:
    """What DVC is to check out: outs inside those paths; of an out around one, that part alone."""
    found: set[str] = set()
    for out in repo.index.outs:
        place = Path(out.fs_path)
        if out.protocol == "local" and out.use_cache and place.is_relative_to(root):
            name = place.relative_to(root).as_posix()
            related = (path for path in paths if is_related(name, path))
            found |= {str(root / max(name, path, key=len)) for path in related}
    return sorted(found)


def _fetch(repo: "Repo", oids: Collection[str]) -> None:
    """Bring into DVC's cache what the remote, if there is one, has under those hashes.

    One that cannot be used is a UserError once, and is not tried again.
    """
    from dvc.logger import set_loggers_level
    from dvc_data.hashfile.hash_info import HashInfo

    if not oids or repo.root_dir in given_up or "remote" not in repo.config["core"]:
        return
    try:
        # What is nowhere is for others to say.
        with _refusals_said(repo), set_loggers_level(logging.ERROR):
            odb = repo.cloud.get_remote_odb(command="fetch")
            done = repo.cloud.pull([HashInfo("md5", oid) for oid in oids], odb=odb)
            if len(done.transferred) < len(oids):
                _look(odb)  # DVC takes a bucket that is not there for an empty one
    except UserError:
        given_up.add(repo.root_dir)
        raise


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
    if isinstance(error, FileNotFoundError):
        return f"is not there ({reason(error)}); mount or make it, or correct it with {modify}"
    why = "it took too long" if isinstance(error, TimeoutError) else reason(error)
    return f"does not answer ({why}); start it, or correct its address with {modify}"
