"""What DVC wrote of stages that ran: every dvc.lock there is, read by its schema."""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from runrecord.errors import UserError
from runrecord.provenance.git import OutsideGit, commit_of, git
from runrecord.text import printable

_LOCK = "dvc.lock"
_LARGEST = 2**23  # bytes that are read of one
_DEEPEST = 400
_DEEP = re.compile(rb"(?m)^[ ?:-]{400}")
_CONFLICT = re.compile(rb"(?m)^(<{7}|={7}|>{7})")
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Out:
    """What a stage wrote, by content."""

    path: str
    oid: str
    """The MD5 by which DVC knows its content; a folder's ends with `.dir`."""
    where: str = ""


@dataclass(frozen=True)
class _Entry:
    path: str
    md5: str | None = None


@dataclass(frozen=True)
class LockedStage:
    """A stage in a dvc.lock; what else stands there is not asked for."""

    cmd: str | list[str] = ""
    deps: list[_Entry] = field(default_factory=list)
    params: object = None
    outs: list[_Entry] = field(default_factory=list)


@dataclass(frozen=True)
class _LockFile:
    schema: Literal["2.0"]
    stages: dict[str, LockedStage] = field(default_factory=dict)


_LOCK_FILE = TypeAdapter(list[_LockFile])
_ONE_STAGE = TypeAdapter(list[LockedStage])
T = TypeVar("T")


def stages_in(text: bytes, where: str) -> list[LockedStage]:
    """The stages of a dvc.lock; of one that is none, nothing, which is said."""
    return [stage for file in _read(_LOCK_FILE, text, where) for stage in file.stages.values()]


def stage_in(text: bytes, where: str) -> list[LockedStage]:
    """The one stage of a file of DVC's run cache; of what is none, nothing, which is said."""
    return _read(_ONE_STAGE, text, where)


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


def outs_of(stage: LockedStage, where: str = "") -> Iterator[Out]:
    """What DVC's cache may have of a stage's outs."""
    for out in stage.outs:
        if out.md5 and MD5.fullmatch(out.md5):
            yield Out(out.path, out.md5, where)


def lock_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every version of dvc.lock: the working tree's, and all in Git, experiments included."""
    lock = root / _LOCK
    if lock.exists():
        yield "the working tree", lock.read_bytes()
    blobs = list(blobs_of(root, _LOCK))
    for blob, content in zip(blobs, _contents(root, blobs), strict=True):
        yield f"a dvc.lock in Git ({blob[:10]})", content


def blobs_of(root: Path, path: str) -> Iterator[str]:
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


def stages_at(root: Path, revision: str) -> list[LockedStage]:
    """What the dvc.lock of a revision has."""
    try:
        commit = commit_of(root, revision) or _experiment(root, revision)
    except OutsideGit:
        return []
    entry = git(root, "ls-tree", commit, "--", _LOCK).split() if commit else []
    if not entry:
        return []
    text = git(root, "cat-file", "blob", entry[2].decode())
    return stages_in(text, f"{_LOCK} of {printable(revision)}")


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
