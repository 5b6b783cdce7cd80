"""What DVC has kept of the stages' outs, records among them: in its cache and remote."""

import errno
import io
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from runrecord.dvc_index import opened
from runrecord.errors import UserError
from runrecord.files import files_inside, sha256, sha256_of, sha256_of_files, write_atomic
from runrecord.paths import RECORDS
from runrecord.provenance.git import OutsideGit, commit_of, git
from runrecord.record.schema import Files
from runrecord.secrets import redact
from runrecord.text import printable, reason

if TYPE_CHECKING:
    from dvc.repo import Repo

_LOCK = "dvc.lock"
_LARGEST = 2**23  # bytes that are read of one
_DEEPEST = 400
_DEEP = re.compile(rb"(?m)^[ ?:-]{400}")
_CONFLICT = re.compile(rb"(?m)^(<{7}|={7}|>{7})")
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


def known_records(root: Path) -> Iterator[tuple[str, Files | None]]:
    """A label and the files of each record that DVC knows; no files where none can be had.

    Records that are not in DVC's cache are fetched from its remote.
    """
    with opened(root) as repo:
        outs: dict[str, _Out] = {}
        for out in _known(repo, root):
            if out.path.startswith(RECORDS):
                outs.setdefault(out.oid, out)
        had = _fetched(repo, outs)
        for oid, out in outs.items():
            yield f"{out.path} of {out.where}", had[oid]


def records_at(root: Path, revision: str) -> dict[str, Files | None]:
    """The files of each record in a commit, branch, tag or DVC experiment, by the record's path.

    Raises:
        UserError: several experiments have that name.
        GitFailed: Git refuses.
    """
    outs = chain.from_iterable(map(_outs_of, _stages_at(root, revision)))
    oids = {out.path: out.oid for out in outs if out.path.startswith(RECORDS)}
    if not oids:
        return {}
    with opened(root) as repo:
        had = _fetched(repo, oids.values())
    return {path: had[oid] for path, oid in oids.items()}


def records_of_equal_runs(root: Path, revision: str, path: str) -> list[Files]:
    """The files of records that runs here left of the stage that writes `path` at a revision.

    They had the command, params and dependencies that the stage has there: DVC's run cache says so.
    """
    wanted = [stage for stage in _stages_at(root, revision) if path in _paths(stage)]
    with opened(root) as repo:
        oids = [
            out.oid
            for stage in _run_cache(repo)
            if any(_inputs(stage) == _inputs(one) for one in wanted)
            for out in _outs_of(stage)
            if out.path == path
        ]
        return [
            files for files in map(partial(_files, repo), oids) if files and not _missing(files)
        ]


def restore_out(root: Path, path: str, digest: str, target: Path) -> bool:
    """Put at `target` the out that has that SHA-256 and was at `path`, if it can be had.

    Looked for in the workspace, in Git, and in all that DVC's cache and remote have.
    """
    here = root / path
    if here.exists() and sha256_of(here) == digest:
        _copy(files_inside(here) if here.is_dir() else {"": here}, target)
        return True
    for blob in _blobs(root, path):
        content = git(root, "cat-file", "blob", blob)
        if sha256(content) == digest:
            write_atomic(target, content)
            return True
    with opened(root) as repo:
        oids = {out.oid for out in _known(repo, root) if out.path == path}
        for oid in sorted(oids, key=lambda oid: not _cached(repo, oid).exists()):
            files = _fetched(repo, [oid])[oid]
            if files is not None and _digest(files) == digest:
                _copy(files, target)
                return True
    return False


def _digest(files: Files) -> str:
    return sha256_of(files[""]) if "" in files else sha256_of_files(files)


def _copy(files: Files, target: Path) -> None:
    for name, file in files.items():
        place = target / name if name else target
        if not place.resolve().is_relative_to(target.resolve()):
            raise OSError(errno.EINVAL, "leads outside the folder", name)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


@dataclass(frozen=True)
class _Out:
    path: str
    oid: str
    """The MD5 by which DVC knows its content; a folder's ends with `.dir`."""
    where: str = ""


def _stages_at(root: Path, revision: str) -> list["_Stage"]:
    """What the dvc.lock of a revision has."""
    try:
        commit = commit_of(root, revision) or _experiment(root, revision)
    except OutsideGit:
        return []
    entry = git(root, "ls-tree", commit, "--", _LOCK).split() if commit else []
    if not entry:
        return []
    text = git(root, "cat-file", "blob", entry[2].decode())
    return _stages_in(text, f"{_LOCK} of {printable(revision)}")


def _experiment(root: Path, name: str) -> str | None:
    """The commit of an experiment, as DVC itself takes its name: of several, that of HEAD.

    Raises:
        UserError: there are several, and none is of HEAD.
    """
    listed = git(root, "for-each-ref", "--format=%(refname)", "refs/exps").decode(errors="replace")
    parts = [ref.split("/") for ref in listed.splitlines()]  # refs/exps/12/34.../NAME
    found = {"".join(ref[2:4]): "/".join(ref) for ref in parts if ref[4:] == [name]}
    head = commit_of(root, "HEAD")
    if len(found) > 1 and head not in found:
        raise UserError(
            f"{name}: {len(found)} experiments have this name, none of them of the commit at hand; "
            f"name one by its ref: {', '.join(sorted(found.values()))}"
        )
    ref = found.get(head or "") or next(iter(found.values()), None)
    return commit_of(root, ref) if ref else None


def _known(repo: "Repo", root: Path) -> Iterator[_Out]:
    """Every out that some dvc.lock or DVC's run cache names, the most recent first."""
    for where, text in _lock_files(root):
        for stage in _stages_in(text, where):
            yield from _outs_of(stage, where)
    for stage in _run_cache(repo):
        yield from _outs_of(stage, "DVC's run cache")


def _run_cache(repo: "Repo") -> Iterator["_Stage"]:
    """The stages that ran here, as dvc.lock would have them."""
    for path in sorted((Path(repo.cache.local.path).parents[1] / "runs").glob("*/*/*")):
        yield from _read(_ONE_STAGE, path.read_bytes(), str(path))


@dataclass(frozen=True)
class _Entry:
    path: str
    md5: str | None = None


@dataclass(frozen=True)
class _Stage:
    """A stage in a dvc.lock; what else stands there is not asked for."""

    cmd: str | list[str] = ""
    deps: list[_Entry] = field(default_factory=list)
    params: object = None
    outs: list[_Entry] = field(default_factory=list)


@dataclass(frozen=True)
class _LockFile:
    schema: Literal["2.0"]
    stages: dict[str, _Stage] = field(default_factory=dict)


@dataclass(frozen=True)
class _Listed:
    relpath: str
    md5: Annotated[str, Field(pattern=_MD5.pattern)]


_LOCK_FILE = TypeAdapter(list[_LockFile])
_ONE_STAGE = TypeAdapter(list[_Stage])
_LISTING = TypeAdapter(list[_Listed])
T = TypeVar("T")


def _stages_in(text: bytes, where: str) -> list[_Stage]:
    """The stages of a dvc.lock."""
    return [stage for file in _read(_LOCK_FILE, text, where) for stage in file.stages.values()]


def _read(kind: TypeAdapter[list[T]], text: bytes, where: str) -> list[T]:
    """What DVC wrote, if it did: a file may be empty, or be in the middle of a merge."""
    why = f"it has {len(text)} bytes" if len(text) > _LARGEST else ""
    try:
        # The fast one ends the process where too much is in each other.
        deep = text.count(b"[") + text.count(b"{") > _DEEPEST or _DEEP.search(text)
        loader = yaml.SafeLoader if deep else yaml.CSafeLoader
        document = None if why else yaml.load(text, loader)  # noqa: S506
        found = kind.validate_python([] if document is None else [document])
    except ValidationError:
        why = "DVC of today writes no such thing"
    except (yaml.YAMLError, ValueError, RecursionError):
        why = "it holds conflict markers" if _CONFLICT.search(text) else "it is no YAML"
    if not why:
        return found
    print(f"{where}: {why}; passed over", file=sys.stderr)
    return []


def _inputs(stage: _Stage) -> tuple[object, ...]:
    """All that a stage's result depends on."""
    deps = {dep.path: dep.md5 for dep in stage.deps}
    return stage.cmd, deps, stage.params, _paths(stage)


def _paths(stage: _Stage) -> set[str]:
    return {out.path for out in stage.outs}


def _outs_of(stage: _Stage, where: str = "") -> Iterator[_Out]:
    for out in stage.outs:
        if out.md5 and _MD5.fullmatch(out.md5):
            yield _Out(out.path, out.md5, where)


def _lock_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every version of dvc.lock: the working tree's, and all in Git, experiments included."""
    lock = root / _LOCK
    if lock.exists():
        yield "the working tree", lock.read_bytes()
    blobs = list(_blobs(root, _LOCK))
    for blob, content in zip(blobs, _contents(root, blobs), strict=True):
        yield f"a dvc.lock in Git ({blob[:10]})", content


def _blobs(root: Path, path: str) -> Iterator[str]:
    """Every version of a file in Git, in commits and experiments."""
    arguments = ("rev-list", "--all", "--full-history", "--objects", "--", f":(literal){path}")
    try:
        listed = git(root, *arguments).decode(errors="replace")
    except OutsideGit:
        return
    for line in listed.splitlines():
        blob, _, name = line.partition(" ")
        if name.endswith(path):
            yield blob


def _contents(root: Path, blobs: Iterable[str]) -> Iterator[bytes]:
    """What those blobs hold, in one process of Git's."""
    given = "".join(f"{blob}\n" for blob in blobs).encode()
    rest = io.BytesIO(git(root, "cat-file", "--batch", given=given) if given else b"")
    for header in rest:
        yield rest.read(int(header.split()[-1]))
        rest.read(1)  # the newline after it


def _fetched(repo: "Repo", oids: Collection[str]) -> dict[str, Files | None]:
    """The files of the outs with those hashes, fetched if need be; None for what is nowhere."""
    _fetch(repo, oids)  # folders' listings and single files, then what the listings name
    listed = {oid: _files(repo, oid) for oid in oids}
    _fetch(repo, {oid for files in listed.values() for oid in _missing(files)})
    return {oid: None if _missing(files) else files for oid, files in listed.items()}


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


def _fetch(repo: "Repo", oids: Iterable[str]) -> None:
    """Bring into the cache what it lacks of these and the remote has."""
    from dvc.config import NoRemoteError
    from dvc_data.hashfile.hash_info import HashInfo

    lacking = [oid for oid in oids if not _cached(repo, oid).exists()]
    with suppress(NoRemoteError):
        if lacking:
            repo.cloud.pull([HashInfo("md5", oid) for oid in lacking])


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
        UserError: it does not answer.
    """
    from dvc.config import NoRemoteError

    with opened(root) as repo:
        try:
            remote = repo.cloud.get_remote_odb()
        except NoRemoteError:
            return None
        address = redact(remote.fs.unstrip_protocol(remote.path))
        try:
            remote.fs.info(remote.path)
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not isinstance(error.__cause__, OSError):
                return address, "answers, nothing is pushed yet"
            raise UserError(
                f"{address} does not answer ({reason(error)}); start it, or correct it with "
                "'dvc remote modify'"
            ) from None
        return address, "answers"
