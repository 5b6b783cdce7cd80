"""What DVC wrote of stages that ran and of files that it tracks: every dvc.lock and .dvc file."""

import io
import posixpath
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from runrecord.errors import UserError
from runrecord.provenance.git import OutsideGit, commit_of, git
from runrecord.safety.text import printable

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

    path: str
    """From the DVC root."""
    oid: str
    """The MD5 by which DVC knows its content; a folder's ends with `.dir`."""
    where: str = ""


@dataclass(frozen=True)
class _Entry:
    path: str
    md5: str | None = None


@dataclass(frozen=True)
class LockedStage:
    """A stage in a dvc.lock, or a .dvc file; what else stands there is not asked for."""

    cmd: str | list[str] = ""
    deps: list[_Entry] = field(default_factory=list)
    params: object = None
    outs: list[_Entry] = field(default_factory=list)
    wdir: str = "."
    """Where its paths begin."""


@dataclass(frozen=True)
class _LockFile:
    schema: Literal["2.0"]
    stages: dict[str, LockedStage] = field(default_factory=dict)


@dataclass(frozen=True)
class _Form:
    """A stage in a dvc.yaml."""

    wdir: str = "."
    do: "_Form | None" = None


@dataclass(frozen=True)
class _Pipeline:
    stages: dict[str, Annotated[_Form, BeforeValidator(lambda one: one or {})]] = field(
        default_factory=dict
    )


_LOCK_FILE = TypeAdapter(list[_LockFile])
_PIPELINE = TypeAdapter(list[_Pipeline])
_ONE_STAGE = TypeAdapter(list[LockedStage])
T = TypeVar("T")


@dataclass(frozen=True)
class State:
    """What DVC knew at some time."""

    commit: str | None
    """None for the working tree."""
    stages: tuple[LockedStage, ...]
    outs: tuple[Out, ...]
    """What DVC's cache may have of them."""
    ids: tuple[str, ...] = ()
    """Git's ids of the files and folders that were asked for, in that commit."""


def states(root: Path, *paths: str) -> Iterator[State]:
    """What DVC knows now, and knew in each commit and experiment, the newest first.

    Args:
        root: of the DVC repository.
        paths: files and folders whose ids in Git are asked for; a commit that changed one counts.
    """
    paths = tuple(path for path in paths if "\n" not in path)  # Git is asked line by line
    at_work = files_at_work(root)
    yield _state(None, at_work, dict.fromkeys(at_work, "the working tree"), {})
    try:
        commits, names = _versions(root, paths)
        below = git(root, "rev-parse", "--show-prefix").decode(errors="replace").rstrip("\n")
    except OutsideGit:
        return
    names = [name for name in names if name.startswith(below) and "\n" not in name]
    asked = [*names, *(below + path for path in paths)]
    ids = _ids(root, [f"{commit}:{name}" for commit in commits for name in asked])
    rows = [tuple(ids[at : at + len(asked)]) for at in range(0, len(ids), len(asked) or 1)]
    blobs = sorted({one for row in rows for one in row[: len(names)] if one})
    contents = dict(zip(blobs, _contents(root, blobs), strict=True))
    parsed: dict[tuple[str, str, bytes], list[LockedStage]] = {}
    seen: set[tuple[str, ...]] = set()
    for commit, row in zip(commits, rows, strict=True):
        if row not in seen:
            seen.add(row)
            own = {name[len(below) :]: one for name, one in zip(names, row, strict=False) if one}
            files = {name: contents[one] for name, one in own.items()}
            labels = {name: f"a {_kind(name)} in Git ({one[:10]})" for name, one in own.items()}
            yield replace(_state(commit, files, labels, parsed), ids=row[len(names) :])


def state_at(root: Path, revision: str) -> State | None:
    """What DVC knew at a revision or experiment, if there is one.

    Raises:
        UserError: several experiments have that name.
        GitFailed: Git refuses.
    """
    try:
        commit = commit_of(root, revision) or _experiment(root, revision)
        if not commit:
            return None
        listed = git(root, "ls-tree", "-r", "-z", "--full-tree", "--name-only", commit)
        below = git(root, "rev-parse", "--show-prefix").decode(errors="replace").rstrip("\n")
    except OutsideGit:
        return None
    found = listed.decode(errors="replace").split("\0")
    names = [name for name in found if name.startswith(below) and _kind(name)]
    blobs = _ids(root, [f"{commit}:{name}" for name in names])
    texts = _contents(root, blobs)
    files = {name[len(below) :]: text for name, text in zip(names, texts, strict=True)}
    return _state(commit, files, {name: f"{name} of {printable(revision)}" for name in files}, {})


def files_at_work(root: Path) -> dict[str, bytes]:
    """DVC's files in the working tree, by their paths from the DVC root."""
    names = {_LOCK, _YAML}
    try:
        listing = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_GLOBS)
        names |= {*git(root, *listing).decode(errors="replace").split("\0")}
    except OutsideGit:
        names |= {path.name for path in root.glob(f"?*{_TRACKED}")}
    paths = {name: root / name for name in sorted(names) if _kind(name)}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def stage_in(text: bytes, where: str) -> list[LockedStage]:
    """The one stage of a .dvc file or of DVC's run cache; of what is none, nothing: it is said."""
    return _read(_ONE_STAGE, text, where)


def outs_of(stage: LockedStage) -> Iterator[Out]:
    """What DVC's cache may have of a stage's outs."""
    for out in stage.outs:
        if out.md5 and MD5.fullmatch(out.md5):
            yield Out(from_root(stage, out.path), out.md5)


def from_root(stage: LockedStage, path: str) -> str:
    """A path of a stage's, from the DVC root; an address as it is."""
    return path if "://" in path else posixpath.normpath(posixpath.join(stage.wdir, path))


def _kind(name: str) -> str:
    """Which of DVC's files that is, if it is one."""
    base = posixpath.basename(name)
    if base in (_LOCK, _YAML):
        return base
    return f"{_TRACKED} file" if base.endswith(_TRACKED) and base != _TRACKED else ""


def _state(
    commit: str | None,
    files: Mapping[str, bytes],
    labels: Mapping[str, str],
    parsed: dict[tuple[str, str, bytes], list[LockedStage]],
) -> State:
    """What DVC's files, by their paths, tell.

    Args:
        commit: that they are of.
        files: their contents.
        labels: what they are called where one is passed over.
        parsed: what was read of such files before; each is read, and complained of, once.
    """
    stages = []
    for name, text in files.items():
        kind, folder = _kind(name), posixpath.dirname(name)
        if kind == _YAML:
            continue
        beside = files.get(posixpath.join(folder, _YAML), b"") if kind == _LOCK else b""
        key = (folder, labels[name], beside)
        if commit is None or key not in parsed:
            read = (
                _locked(text, beside, labels[name])
                if kind == _LOCK
                else stage_in(text, labels[name])
            )
            parsed[key] = [replace(one, wdir=posixpath.join(folder, one.wdir)) for one in read]
        stages += parsed[key]
    where = "the working tree" if commit is None else f"commit {commit[:10]}"
    outs = [replace(out, where=where) for stage in stages for out in outs_of(stage)]
    return State(commit, tuple(stages), tuple(outs))


def _locked(text: bytes, pipeline: bytes, where: str) -> list[LockedStage]:
    """The stages of a dvc.lock, whose folders the dvc.yaml beside it names."""
    forms: dict[str, _Form] = {}
    if b"wdir" in pipeline:
        for beside in _read(_PIPELINE, pipeline, f"the {_YAML} beside {where}"):
            forms |= beside.stages
    found: list[LockedStage] = []
    for file in _read(_LOCK_FILE, text, where):
        for name, stage in file.stages.items():
            form = forms.get(name.partition("@")[0], _Form())
            found.append(replace(stage, wdir=(form.do or form).wdir))
    return found


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


def _versions(root: Path, paths: Collection[str]) -> tuple[list[str], list[str]]:
    """The commits that changed DVC's files or those, the newest first; and DVC's files' names."""
    wanted = (*_GLOBS, *(f":(literal){path}" for path in paths))
    listing = ("rev-list", "--all", "--full-history", "--objects", "--", *wanted)
    lines = [
        line.partition(" ") for line in git(root, *listing).decode(errors="replace").splitlines()
    ]
    commits = [oid for oid, space, _ in lines if not space]
    return commits, sorted({name for _, _, name in lines if _kind(name)})


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
