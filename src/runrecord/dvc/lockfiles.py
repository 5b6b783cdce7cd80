"""What DVC wrote of stages that ran and of files that it tracks: every dvc.lock and .dvc file."""

import io
import posixpath
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from runrecord.errors import UserError
from runrecord.git.commands import OutsideGit, commit_of, git

_LOCK, _YAML, _TRACKED = "dvc.lock", "dvc.yaml", ".dvc"
_GLOBS = (f":(glob)**/{_LOCK}", f":(glob)**/{_YAML}", f":(glob)**/?*{_TRACKED}")
_LARGEST = 2**23  # bytes that are read of one
_DEEPEST = 400
_DEEP = re.compile(rb"(?m)^[ ?:-]{400}")
_CONFLICT = re.compile(rb"(?m)^(<{7}|={7}|>{7})")
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Out:
    """What a stage wrote or a .dvc file names, by content."""

    path: str  # from the DVC root
    oid: str  # the MD5 by which DVC knows its content; a folder's ends with `.dir`


@dataclass(frozen=True)
class _Entry:
    path: str
    md5: str | None = None


@dataclass(frozen=True)
class _Stage:
    """A stage in a dvc.lock, or a .dvc file; other keys are not read."""

    outs: list[_Entry] = field(default_factory=list)
    wdir: str = "."  # where its paths begin; of a stage, the dvc.yaml beside names it


@dataclass(frozen=True)
class _LockFile:
    schema: Literal["2.0"]
    stages: dict[str, _Stage] = field(default_factory=dict)


@dataclass(frozen=True)
class _Form:
    """A stage in a dvc.yaml."""

    wdir: str = "."
    do: "_Form | None" = None


@dataclass(frozen=True)
class _Pipeline:
    stages: dict[str, _Form | None] = field(default_factory=dict)


_LOCK_FILE, _PIPELINE = TypeAdapter(_LockFile | None), TypeAdapter(_Pipeline | None)
_ONE_STAGE = TypeAdapter(_Stage | None)
T = TypeVar("T")


@dataclass(frozen=True)
class State:
    """What DVC knew at some time."""

    commit: str | None  # None for the working tree
    outs: tuple[Out, ...]  # what DVC's cache may have


def states(root: Path) -> Iterator[State]:
    """What DVC knows now, and knew in each commit and experiment, the newest first."""
    at_work = _files_at_work(root).items()
    files = {name: (f"{name} of the working tree", text) for name, text in at_work}
    yield State(None, _outs_in(files, _outs))
    listing = ("rev-list", "--all", "--full-history", "--objects", "--", *_GLOBS)
    try:
        listed = git(root, *listing).decode(errors="replace").splitlines()
    except OutsideGit:
        return
    lines = [line.partition(" ") for line in listed]  # a commit; or an id and a name
    commits = [oid for oid, space, _ in lines if not space]
    yield from _committed(root, commits, sorted({name for *_, name in lines}))


def outs_at(root: Path, revision: str) -> tuple[Out, ...]:
    """The outs that DVC knew at a revision or experiment; none if there is no such one.

    Raises:
        UserError: several experiments have that name.
        GitFailed: Git refuses.
    """
    try:
        commit = commit_of(root, revision) or _experiment(root, revision)
        if not commit:
            return ()
        listed = git(root, "ls-tree", "-r", "-z", "--full-tree", "--name-only", commit)
    except OutsideGit:
        return ()
    return next(_committed(root, [commit], listed.decode(errors="replace").split("\0"))).outs


def _files_at_work(root: Path) -> dict[str, bytes]:
    """DVC's files in the working tree, by their paths from the DVC root."""
    names = {_LOCK, _YAML}
    try:
        listing = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_GLOBS)
        names |= {*git(root, *listing).decode(errors="replace").split("\0")}
    except OutsideGit:
        names |= {path.name for path in root.glob(f"?*{_TRACKED}")}
    paths = {name: root / name for name in sorted(names) if _kind(name)}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def _kind(name: str) -> str:
    """Which of DVC's files that is, if it is one."""
    base = posixpath.basename(name)
    if base in (_LOCK, _YAML):
        return base
    return f"{_TRACKED} file" if base.endswith(_TRACKED) and base != _TRACKED else ""


def _committed(root: Path, commits: Sequence[str], names: Iterable[str]) -> Iterator[State]:
    """What DVC's files tell in each of those commits; commits with the same files count once.

    Of the names, which are from Git's root, only those of DVC's files below `root` count.
    """
    below = git(root, "rev-parse", "--show-prefix").decode(errors="replace").rstrip("\n")
    # Git is asked line by line.
    own = [name for name in names if name.startswith(below) and _kind(name) and "\n" not in name]
    ids = iter(_ids(root, [f"{commit}:{name}" for commit in commits for name in own]))
    rows = {commit: tuple(next(ids) for _ in own) for commit in commits}
    blobs = sorted({one for row in rows.values() for one in row if one})
    contents = dict(zip(blobs, _contents(root, blobs), strict=True))
    read = cache(_outs)  # of a file that several commits have, what is wrong is said once
    seen: set[tuple[str, ...]] = set()
    for commit, row in rows.items():
        if row not in seen:
            seen.add(row)
            files = {
                name.removeprefix(below): (f"a {_kind(name)} in Git ({one[:10]})", contents[one])
                for name, one in zip(own, row, strict=True)
                if one
            }
            yield State(commit, _outs_in(files, read))


def _outs_in(
    files: Mapping[str, tuple[str, bytes]], read: Callable[..., Iterable[Out]]
) -> tuple[Out, ...]:
    """What DVC's files tell: by path, what each is called where it is bad, and its content."""
    outs: list[Out] = []
    for name, (label, text) in files.items():
        kind, folder = _kind(name), posixpath.dirname(name)
        _, beside = files.get(posixpath.join(folder, _YAML), ("", b""))
        if kind != _YAML:
            outs += read(folder, label, text, beside if kind == _LOCK else None)
    return tuple(outs)


def _outs(folder: str, label: str, text: bytes, pipeline: bytes | None) -> list[Out]:
    """The outs that a dvc.lock names, with the dvc.yaml beside it, or else a .dvc file."""
    if pipeline is None:
        stages = [_read(_ONE_STAGE, text, label) or _Stage()]
    else:
        stages = [*_locked(text, pipeline, label)]
    return [
        Out(posixpath.normpath(posixpath.join(folder, stage.wdir, out.path)), out.md5)
        for stage in stages
        for out in stage.outs
        if out.md5 and MD5.fullmatch(out.md5)
    ]


def _locked(text: bytes, pipeline: bytes, where: str) -> Iterator[_Stage]:
    """The stages of a dvc.lock that the dvc.yaml beside it has: DVC leaves renamed ones there."""
    named = _stages_in(pipeline)
    for name, stage in (_read(_LOCK_FILE, text, where) or _LockFile("2.0")).stages.items():
        template = name.partition("@")[0]
        if not named or template in named:
            form = named.get(template) or _Form()
            yield replace(stage, wdir=(form.do or form).wdir)


@cache
def _stages_in(pipeline: bytes) -> Mapping[str, _Form | None]:
    """What a dvc.yaml names; many commits have the same."""
    return (_read(_PIPELINE, pipeline, f"a {_YAML}") or _Pipeline()).stages


def _read(kind: TypeAdapter[T | None], text: bytes, where: str) -> T | None:
    """What DVC wrote, if it did: a file may be empty, or be in the middle of a merge."""
    why = f"it has {len(text)} bytes" if len(text) > _LARGEST else ""
    try:
        # The fast one ends the process where too much is in each other.
        deep = text.count(b"[") + text.count(b"{") > _DEEPEST or _DEEP.search(text)
        loader = yaml.SafeLoader if deep else yaml.CSafeLoader
        return kind.validate_python(None if why else yaml.load(text, loader))  # noqa: S506
    except ValidationError:
        why = "DVC of today writes no such thing"
    except (yaml.YAMLError, ValueError, RecursionError):
        why = "it holds conflict markers" if _CONFLICT.search(text) else "it is no YAML"
    finally:
        if why:
            print(f"{where}: {why}; passed over", file=sys.stderr)
    return None


def _ids(root: Path, names: Iterable[str]) -> list[str]:
    """Git's id of each `COMMIT:PATH`, in one process; empty where there is none."""
    given = "".join(f"{name}\n" for name in names).encode()
    listing = ("cat-file", "--batch-check=%(objectname)")
    told = git(root, *listing, given=given).decode(errors="replace") if given else ""
    return ["" if line.endswith(" missing") else line for line in told.splitlines()]


def _contents(root: Path, blobs: Iterable[str]) -> Iterator[bytes]:
    """What those blobs hold, in one process of Git's."""
    given = "".join(f"{blob}\n" for blob in blobs).encode()
    rest = io.BytesIO(git(root, "cat-file", "--batch", given=given) if given else b"")
    for header in rest:
        yield rest.read(int(header.split()[-1]))
        rest.read(1)  # the newline after it


def _experiment(root: Path, name: str) -> str | None:
    """The commit of an experiment, as DVC itself takes its name: of several, that of HEAD."""
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
