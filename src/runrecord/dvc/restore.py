"""What a run read, brought back: by what DVC knows of it, whoever wrote it, and by its SHA-256."""

import json
import posixpath
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from runrecord.dvc.cache import cache_of, run_cache_entries
from runrecord.dvc.checkout import bring, files_in_folders, hash_paths, is_related
from runrecord.dvc.lockfiles import files_at_work, states
from runrecord.dvc.params import share_cache
from runrecord.dvc.stages import Stage
from runrecord.errors import UserError
from runrecord.provenance.git import commit_of, git, top_of
from runrecord.provenance.patch import check_out
from runrecord.store.files import copy


@dataclass(frozen=True)
class _Source:
    """A state of the repository that may have what is looked for."""

    commit: str
    patch: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """DVC's files where they are not the commit's, by their paths from the DVC root."""


def restore(
    root: Path,
    target: Path,
    digests: Mapping[str, str],
    kept: Collection[str],
    scratch: Path,
    commit: str,
    patch: bytes = b"",
    stages: Collection[Stage] = (),
) -> str:
    """Put files and folders in place that have these SHA-256.

    They are looked for in the workspace; then as DVC has them by the run's own commit, by the
    workspace's dvc.lock, by each other commit and experiment, and by DVC's run cache.

    Args:
        root: the DVC repository that they are brought from.
        target: the root of the one where they go.
        digests: of what is wanted, by the paths from either root.
        kept: those of them that DVC may keep; others are looked for in the workspace alone.
        scratch: a folder for a clone, on the same disk as `target`.
        commit: of the run.
        patch: what the run's code differed by from it.
        stages: of that commit, for what DVC's run cache has.

    Returns why a remote gave nothing, if that is known.
    """
    wanted = _lacking(target, digests)
    _from_workspace(root, target, wanted)
    why = ""
    if wanted := _lacking(target, {path: wanted[path] for path in wanted if path in kept}):
        for source in _sources(root, wanted, commit, patch, stages):
            try:
                place = _checked_out(root, source, scratch)
                why = bring(place, wanted.keys()) or why
                found = hash_paths(place, wanted.keys())
            except (UserError, OSError):  # of a state that was never meant to be checked out
                continue
            for path in sorted(path for path in wanted if found.get(path) == wanted[path]):
                if (place / path).exists():  # else it went with the folder that it is in
                    _move(place / path, target / path)
                del wanted[path]
            if not wanted:
                break
        shutil.rmtree(scratch, ignore_errors=True)
    return why


def _lacking(target: Path, digests: Mapping[str, str]) -> dict[str, str]:
    there = hash_paths(target, digests.keys())
    return {path: digest for path, digest in digests.items() if there.get(path) != digest}


def _from_workspace(root: Path, target: Path, digests: Mapping[str, str]) -> None:
    there = hash_paths(root, digests.keys())
    equal = [path for path, digest in digests.items() if there.get(path) == digest]
    folders = files_in_folders(root, [path for path in equal if (root / path).is_dir()])
    for path in sorted(equal):
        remove(target / path)
        for name, file in folders.get(path, {"": root / path}).items():
            place = target / path / name if name else target / path
            place.parent.mkdir(parents=True, exist_ok=True)
            copy(file, place)
            place.chmod(file.stat().st_mode | stat.S_IWUSR)


def _sources(
    root: Path, wanted: Mapping[str, str], commit: str, patch: bytes, stages: Collection[Stage]
) -> Iterator[_Source]:
    """Where to look, each state that differs in what is wanted once."""
    yield _Source(commit, patch)
    seen: set[object] = set()
    for state in states(root, *wanted):
        outs = {
            (out.path, out.oid)
            for out in state.outs
            if any(is_related(out.path, path) for path in wanted)
        }
        key = frozenset(outs), state.ids
        if key in seen or not (outs or any(state.ids)):
            continue
        seen.add(key)
        if state.commit is not None:
            yield _Source(state.commit)
        elif head := commit_of(root, "HEAD"):
            yield _Source(head, files=files_at_work(root))
    for stage in stages:
        if any(is_related(out, path) for out in stage.outs for path in wanted):
            for text in _entries(root, stage):
                yield _Source(commit, patch, text)


def _entries(root: Path, stage: Stage) -> Iterator[Mapping[str, bytes]]:
    """What DVC's run cache has of a stage, as a dvc.lock beside the stage's dvc.yaml."""
    file, _, name = stage.name.rpartition(":")
    lock = posixpath.join(posixpath.dirname(file), "dvc.lock")
    for entry, text in run_cache_entries(root):
        outs = {posixpath.normpath(posixpath.join(stage.folder, out.path)) for out in entry.outs}
        if outs <= {*stage.outs}:
            document = {"schema": "2.0", "stages": {name: yaml.safe_load(text)}}
            yield {lock: json.dumps(document).encode()}


def _checked_out(root: Path, source: _Source, clone: Path) -> Path:
    """The DVC repository of a state, in a clone that shares the cache and the remotes."""
    if clone.exists():
        git(clone, "clean", "--quiet", "-ffdx")
    check_out(root, source.commit, source.patch, clone)
    place = clone / root.resolve().relative_to(top_of(root).resolve())
    for name, content in source.files.items():
        if (place / name).parent.is_dir():
            (place / name).write_bytes(content)
    cache, remotes, _ = cache_of(root)
    # A copy: what is rebuilt may write to it.
    share_cache(place, cache, remotes, root, links="reflink,copy", notes=clone / ".dvc-notes")
    return place


def _move(source: Path, target: Path) -> None:
    remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def remove(path: Path) -> None:
    """Remove a file, link or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
