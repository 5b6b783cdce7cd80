"""What DVC has kept of the stages' outs, records among them: in its cache and remote."""

import re
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter, ValidationError

from runrecord.dvc.lockfiles import (
    MD5,
    LockedStage,
    Out,
    from_root,
    outs_of,
    stage_in,
    state_at,
    states,
)
from runrecord.dvc.remote import fetch, state
from runrecord.dvc.stages import opened
from runrecord.errors import UserError
from runrecord.record.schema import Files
from runrecord.safety.text import shown
from runrecord.store.paths import RECORDS

if TYPE_CHECKING:
    from dvc.repo import Repo


def _warn(label: str, error: Exception) -> None:
    print(f"warning: {label}: {shown(str(error))}", file=sys.stderr)


def known_records(
    root: Path,
    on_failure: Callable[[str, Exception], None] = _warn,
    run_cache: bool = True,
) -> Iterator[tuple[str, Files | None]]:
    """A label and the files of each record that DVC knows; no files where none can be had.

    Records that are not in DVC's cache are fetched from its remote.

    Args:
        root: of the main repository.
        on_failure: told of a remote that cannot be used.
        run_cache: those that DVC's run cache alone knows, too; `dvc gc` may remove them.
    """
    with opened(root) as repo:
        outs: dict[str, Out] = {}
        for out in _known(repo, root, run_cache):
            if out.path.startswith(RECORDS):
                outs.setdefault(out.oid, out)
        had = _fetched(repo, outs, on_failure)
        for oid, out in outs.items():
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
    wanted = {
        from_root(stage, out.path): (_inputs(stage), out.path)
        for stage in (there.stages if there else ())
        for out in stage.outs
    }
    if path not in wanted:
        return []
    inputs, name = wanted[path]
    with opened(root) as repo:
        oids = [
            out.md5
            for stage in _run_cache(repo)
            if _inputs(stage) == inputs
            for out in stage.outs
            if out.path == name and out.md5
        ]
        return [
            files for files in map(partial(_files, repo), oids) if files and not _missing(files)
        ]


def _known(repo: "Repo", root: Path, run_cache: bool) -> Iterator[Out]:
    """Every out that some dvc.lock, .dvc file or DVC's run cache names, the most recent first."""
    for known in states(root):
        yield from known.outs
    for stage in _run_cache(repo) if run_cache else ():
        for out in outs_of(stage):  # it does not name the folder that its paths begin in
            path = re.sub(r"^(\.\./)+", "", out.path)
            yield replace(out, path=path, where="DVC's run cache")


def _run_cache(repo: "Repo") -> Iterator[LockedStage]:
    """The stages that ran here, as dvc.lock would have them."""
    for path in _run_cache_files(repo):
        yield from stage_in(path.read_bytes(), str(path))


def _run_cache_files(repo: "Repo") -> list[Path]:
    return sorted((Path(repo.cache.local.path).parents[1] / "runs").glob("*/*/*"))


def run_cache_entries(root: Path) -> Iterator[tuple[LockedStage, bytes]]:
    """Each stage that ran here, and what DVC wrote of it, the newest first."""
    with opened(root) as repo:
        files = sorted(_run_cache_files(repo), key=lambda path: -path.stat().st_mtime)
    for path in files:
        text = path.read_bytes()
        for stage in stage_in(text, str(path)):
            yield stage, text


@dataclass(frozen=True)
class _Listed:
    relpath: str
    md5: Annotated[str, Field(pattern=MD5.pattern)]


_LISTING = TypeAdapter(list[_Listed])


def _inputs(stage: LockedStage) -> tuple[object, ...]:
    """All that a stage's result depends on."""
    deps = {dep.path: dep.md5 for dep in stage.deps}
    return stage.cmd, deps, stage.params, _paths(stage)


def _paths(stage: LockedStage) -> set[str]:
    return {out.path for out in stage.outs}


def _fetched(
    repo: "Repo", oids: Collection[str], on_failure: Callable[[str, Exception], None] = _warn
) -> dict[str, Files | None]:
    """The files of the outs with those hashes, fetched if need be; None for what is nowhere."""
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
