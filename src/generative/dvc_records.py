"""The sealed records that DVC knows of: those of every commit and experiment, by hash."""

import json
import subprocess
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from generative.record import Files

if TYPE_CHECKING:
    from dvc.repo import Repo

_PREFIX = "records/"


def known_records(root: Path) -> Iterator[tuple[str, Files | None]]:
    """A label and the files of each record that DVC knows; no files where none can be had.

    Records that are not in DVC's cache are fetched from its remote.
    """
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        hashes = _hashes(repo, root)
        had = _have(repo, hashes)
        for oid, label in hashes.items():
            yield label, had[oid]


def record_at(root: Path, revision: str, path: str) -> Files | None:
    """The files of the record at `path` in a commit, branch, tag or DVC experiment."""
    from dvc.repo import Repo

    commit = _commit(root, revision)
    document = yaml.load(_git(root, "show", f"{commit}:./dvc.lock"), Loader=yaml.CSafeLoader) or {}
    outs = [out for stage in document.get("stages", {}).values() for out in stage.get("outs", [])]
    oids = [out["md5"] for out in outs if out["path"] == path and "md5" in out]
    if not oids:
        return None
    with Repo(str(root)) as repo:
        return _have(repo, oids)[oids[0]]


def _commit(root: Path, revision: str) -> str:
    """A revision's commit; DVC keeps experiments as refs that end with their names."""
    refs = _git(root, "for-each-ref", "--format=%(refname)", "refs/exps").decode().splitlines()
    names = [ref for ref in refs if ref.rpartition("/")[2] == revision]
    return names[0] if names else revision


def _hashes(repo: "Repo", root: Path) -> dict[str, str]:
    """The hash of every record, with where it was found first."""
    stages: list[tuple[str, dict[str, Any]]] = []
    for where, text in _lock_files(root):
        document = yaml.load(text, Loader=yaml.CSafeLoader) or {}
        stages += [(where, stage) for stage in document.get("stages", {}).values()]
    for path in sorted((Path(repo.cache.local.path).parents[1] / "runs").glob("*/*/*")):
        stages.append(("DVC's run cache", yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)))
    return {
        out["md5"]: f"{out['path']} of {where}"
        for where, stage in reversed(stages)
        for out in stage.get("outs", [])
        if out["path"].startswith(_PREFIX) and "md5" in out
    }


def _lock_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every version of dvc.lock: the working tree's, and all in Git, experiments included."""
    lock = root / "dvc.lock"
    if lock.exists():
        yield "the working tree", lock.read_bytes()
    arguments = ("rev-list", "--all", "--full-history", "--objects", "--", "dvc.lock")
    for line in _git(root, *arguments).decode().splitlines():
        blob, _, path = line.partition(" ")
        if path.endswith("dvc.lock"):
            yield f"a dvc.lock in Git ({blob[:10]})", _git(root, "cat-file", "blob", blob)


def _have(repo: "Repo", oids: Collection[str]) -> dict[str, Files | None]:
    """The files of the records with those hashes, fetched if need be; None for what is nowhere."""
    _fetch(repo, oids)  # the listings, then what they list
    listed = {oid: _files(repo, oid) for oid in oids}
    _fetch(repo, {oid for files in listed.values() for oid in _missing(files)})
    return {oid: None if _missing(files) else files for oid, files in listed.items()}


def _files(repo: "Repo", oid: str) -> Files | None:
    """Where DVC's cache has, or would have, the files of the record with that hash."""
    cache = repo.cache.local
    listing = Path(cache.oid_to_path(oid))
    if not listing.exists():
        return None
    entries = json.loads(listing.read_bytes())
    return {entry["relpath"]: Path(cache.oid_to_path(entry["md5"])) for entry in entries}


def _missing(files: Files | None) -> set[str]:
    """The hashes of those files that the cache lacks."""
    return {path.parent.name + path.name for path in (files or {}).values() if not path.exists()}


def _fetch(repo: "Repo", oids: Iterable[str]) -> None:
    """Bring into the cache what it lacks of these and the remote has."""
    from dvc.config import NoRemoteError
    from dvc_data.hashfile.hash_info import HashInfo

    lacking = [oid for oid in oids if not Path(repo.cache.local.oid_to_path(oid)).exists()]
    with suppress(NoRemoteError):
        if lacking:
            repo.cloud.pull([HashInfo("md5", oid) for oid in lacking])


def _git(root: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""
