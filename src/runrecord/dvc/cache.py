"""What DVC has kept of stages' outs and of data, and how it is put in place again."""

import json
import logging
import os
import posixpath
import re
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from runrecord.dvc.lockfiles import MD5, LockedStage, Out, files_at_work, stage_in, state_at, states
from runrecord.dvc.params import share_cache
from runrecord.dvc.remote import fetch, lacking, state
from runrecord.dvc.stages import Stage, files_in_folders, hash_paths, is_related, opened
from runrecord.errors import UserError
from runrecord.files import copy
from runrecord.git.commands import commit_of, git, top_of
from runrecord.git.patch import check_out
from runrecord.project import RECORDS
from runrecord.record.events import Files
from runrecord.safety.text import reason, shown

if TYPE_CHECKING:
    from dvc.repo import Repo


def _warn(label: str, error: Exception) -> None:
    print(f"warning: {label}: {shown(str(error))}", file=sys.stderr)


def known_records(
    root: Path,
    on_failure: Callable[[str, Exception], None] = _warn,
    run_cache: bool = True,
) -> Iterator[tuple[str, Files | None]]:
    """A label and the files of each record that DVC knows, the newest first; None if unavailable.

    Records that are not in DVC's cache are fetched from its remote.

    Args:
        root: of the main repository.
        on_failure: told of a remote that cannot be used.
        run_cache: those that DVC's run cache alone knows, too; `dvc gc` may remove them.
    """
    with opened(root) as repo:
        outs = [out for known in states(root) for out in known.outs]
        for stage, _ in _run_cache(repo) if run_cache else ():
            # It does not name the folder that its paths begin in.
            outs += [
                replace(out, path=re.sub(r"^(\.\./)+", "", out.path))
                for out in stage.outs_from("DVC's run cache")
            ]
        named: dict[str, Out] = {}
        for out in outs:
            if out.path.startswith(RECORDS):
                named.setdefault(out.oid, out)
        had = _fetched(repo, named, on_failure)
        for oid, out in named.items():
            yield f"{out.path} of {out.where}", had[oid]


def records_at(root: Path, revision: str) -> dict[str, Files | None]:
    """The files of each record in a commit, branch, tag or DVC experiment, by the record's path.

    Raises:
        UserError: several experiments have that name.
        GitFailed: Git refuses.
    """
    there = state_at(root, revision)
    outs = there.outs if there else ()
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
    there = state_at(root, revision)
    makers = {
        stage.from_root(out.path): (_inputs(stage), out.path)
        for stage in (there.stages if there else ())
        for out in stage.outs
    }
    with opened(root) as repo:
        found = [
            _files(repo, out.md5)
            for stage, _ in (_run_cache(repo) if path in makers else ())
            for out in stage.outs
            if out.md5 and (_inputs(stage), out.path) == makers[path]
        ]
    return [files for files in found if files and not _missing(files)]


def _inputs(stage: LockedStage) -> tuple[object, ...]:
    """All that a stage's result depends on."""
    deps = {dep.path: dep.md5 for dep in stage.deps}
    return stage.cmd, deps, stage.params, {out.path for out in stage.outs}


def _run_cache(repo: "Repo") -> Iterator[tuple[LockedStage, bytes]]:
    """Each stage that ran here, and what DVC wrote of it, the newest first."""
    folder = Path(repo.cache.local.path).parents[1] / "runs"
    for path in sorted(folder.glob("*/*/*"), key=lambda path: -path.stat().st_mtime):
        text = path.read_bytes()
        for stage in stage_in(text, str(path)):
            yield stage, text


@dataclass(frozen=True)
class _Listed:
    relpath: str
    md5: Annotated[str, Field(pattern=MD5.pattern)]


_LISTING = TypeAdapter(list[_Listed])


def _fetched(
    repo: "Repo", oids: Collection[str], on_failure: Callable[[str, Exception], None] = _warn
) -> dict[str, Files | None]:
    """The files of the outs with those hashes, fetched if need be; None if unavailable."""
    try:
        # Folders' listings and single files, then what the listings name.
        fetch(repo, [oid for oid in oids if not _cached(repo, oid).exists()])
        fetch(repo, {lacked for oid in oids for lacked in _missing(_files(repo, oid))})
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


def cache_of(root: Path) -> tuple[str, dict[str, str], bool]:
    """The folder of DVC's cache; the address of each remote; is there a default one?

    Raises:
        UserError: DVC refuses to open the repository.
    """
    with opened(root) as repo:
        remotes = {name: one["url"] for name, one in repo.config["remote"].items()}
        default = bool(repo.config["core"].get("remote"))
        return str(Path(repo.cache.local.path).parents[1]), remotes, default


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
    with opened(root) as repo:
        return state(repo)


def lost_records(root: Path) -> tuple[int, int]:
    """How many records dvc.lock names, here and in Git; how many DVC has nowhere.

    Nothing is fetched: of a folder, the remote has all if it has the listing, which comes last.

    Raises:
        UserError: the remote cannot be used.
    """
    outs = {out for known in states(root) for out in known.outs}
    named = {out.oid for out in outs if out.path.startswith(RECORDS)}
    with opened(root) as repo:
        found = {oid: _files(repo, oid) for oid in named}
        lacked = [oid for oid, files in found.items() if files is None or _missing(files)]
        return len(named), len(lacking(repo, lacked))


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
        for out in repo.index.outs:
            file = Path(out.fs_path)
            if out.meta and out.meta.isexec and file.is_file() and not os.access(file, os.X_OK):
                copied = file.with_name(f".{file.name}.new")  # DVC's cache may share the file
                copy(file, copied)
                copied.chmod(0o755)
                copied.replace(file)
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


_Source = tuple[str, bytes, Mapping[str, bytes]]
"""A state of the repository: a commit, a patch to it, and DVC's files where they are others."""


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
    wanted = _lacking(target, {path: wanted[path] for path in wanted if path in kept})
    why = ""
    for source in _sources(root, wanted, commit, patch, stages) if wanted else ():
        try:
            place = _checked_out(root, source, scratch)
            why = bring(place, wanted.keys()) or why
            found = hash_paths(place, wanted.keys())
        except (UserError, OSError):  # of a state that was never meant to be checked out
            continue
        for path in sorted(path for path in wanted if found.get(path) == wanted[path]):
            if (place / path).exists():  # else it went with the folder that it is in
                remove(target / path)
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).rename(target / path)
            del wanted[path]
        if not wanted:
            break
    shutil.rmtree(scratch, ignore_errors=True)
    return why


def _lacking(target: Path, digests: Mapping[str, str]) -> dict[str, str]:
    there = hash_paths(target, digests.keys())
    return {path: digest for path, digest in digests.items() if there.get(path) != digest}


def _from_workspace(root: Path, target: Path, digests: Mapping[str, str]) -> None:
    equal = digests.keys() - _lacking(root, digests)
    folders = files_in_folders(root, [path for path in equal if (root / path).is_dir()])
    for path in sorted(equal):
        remove(target / path)
        for name, file in folders.get(path, {"": root / path}).items():
            place = target / path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            copy(file, place)
            place.chmod(file.stat().st_mode | stat.S_IWUSR)


def _sources(
    root: Path, wanted: Mapping[str, str], commit: str, patch: bytes, stages: Iterable[Stage]
) -> Iterator[_Source]:
    """Where to look, each state that differs in what is wanted once."""
    yield commit, patch, {}
    seen: set[object] = set()
    for known in states(root, *wanted):
        outs = [out for out in known.outs if any(is_related(out.path, path) for path in wanted)]
        key = frozenset((out.path, out.oid) for out in outs), known.ids
        if key in seen or not (outs or any(known.ids)):
            continue
        seen.add(key)
        if known.commit is not None:
            yield known.commit, b"", {}
        elif head := commit_of(root, "HEAD"):
            yield head, b"", files_at_work(root)
    for stage in stages:
        if any(is_related(out, path) for out in stage.outs for path in wanted):
            for lock in _locks_of(root, stage):
                yield commit, patch, lock


def _locks_of(root: Path, stage: Stage) -> list[Mapping[str, bytes]]:
    """What DVC's run cache has of a stage, each as a dvc.lock beside the stage's dvc.yaml."""
    file, _, name = stage.name.rpartition(":")
    lock = posixpath.join(posixpath.dirname(file), "dvc.lock")
    found: list[Mapping[str, bytes]] = []
    with opened(root) as repo:
        for entry, text in _run_cache(repo):
            outs = {replace(entry, wdir=stage.folder).from_root(out.path) for out in entry.outs}
            if outs <= {*stage.outs}:
                document = {"schema": "2.0", "stages": {name: yaml.safe_load(text)}}
                found.append({lock: json.dumps(document).encode()})
    return found


def _checked_out(root: Path, source: _Source, clone: Path) -> Path:
    """The DVC repository of a state, in a clone that shares the cache and the remotes."""
    commit, patch, files = source
    if clone.exists():
        git(clone, "clean", "--quiet", "-ffdx")
    check_out(root, commit, patch, clone)
    place = clone / root.resolve().relative_to(top_of(root).resolve())
    for name, content in files.items():
        if (place / name).parent.is_dir():
            (place / name).write_bytes(content)
    cache, remotes, _ = cache_of(root)
    # A copy: what is rebuilt may write to it.
    share_cache(place, cache, remotes, root, links="reflink,copy", notes=clone / ".dvc-notes")
    return place


def remove(path: Path) -> None:
    """Remove a file, link or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
