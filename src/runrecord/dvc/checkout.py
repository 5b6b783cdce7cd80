"""What DVC knows to be at a path, put there by DVC itself; and which files it sees in a folder."""

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING

from runrecord.dvc.stages import opened
from runrecord.safety.text import reason
from runrecord.store.files import copy, sha256, sha256_of_files

if TYPE_CHECKING:
    from dvc.repo import Repo

_COMPILED = "__pycache__/"


def is_related(one: str, other: str) -> bool:
    """Are two paths the same, or is one inside the other?"""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def bring(checkout: Path, paths: Collection[str]) -> str:
    """Put in a checkout what its DVC files name at those paths, inside them, or around them.

    It comes from DVC's cache, else its remote or, if it was imported, from where that was. Returns
    why something did not, or nothing; what could be had is there.

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
                _make_executable(file)
    return why


def _make_executable(file: Path) -> None:
    """What it is by another name, in DVC's cache for instance, stays as it is."""
    copied = file.with_name(f".{file.name}.new")
    copy(file, copied)
    copied.chmod(0o755)
    copied.replace(file)


def _targets(repo: "Repo", root: Path, paths: Collection[str]) -> list[str]:
    """What DVC is to check out: outs inside those paths; of an out around one, that part alone."""
    found: set[str] = set()
    for out in repo.index.outs:
        place = Path(out.fs_path)
        if out.protocol != "local" or not out.use_cache or not place.is_relative_to(root):
            continue
        name = place.relative_to(root).as_posix()
        for path in paths:
            if is_related(name, path):
                found.add(str(root / max(name, path, key=len)))
    return sorted(found)


def hash_paths(root: Path, paths: Iterable[str], compiled: bool = False) -> dict[str, str]:
    """SHA-256 of each file and folder that is there, by its path.

    Of a folder all files count that DVC sees: what .dvcignore names does not. Files behind a link
    to a folder count too, though DVC does not see them.

    Args:
        root: of the DVC repository.
        paths: from there.
        compiled: count what Python compiles, too: a stage that only reads a folder writes that.
    """
    there = [path for path in paths if (root / path).exists()]
    folders = files_in_folders(root, [path for path in there if (root / path).is_dir()])
    found = {}
    for path in there:
        files = folders.get(path)
        if files is not None and not compiled:
            files = {
                name: file for name, file in files.items() if f"/{_COMPILED}" not in f"/{name}"
            }
        found[path] = sha256(root / path) if files is None else sha256_of_files(files)
    return found


def files_in_folders(root: Path, folders: Collection[str]) -> dict[str, Mapping[str, Path]]:
    """The files of each of those folders by their names in it, less what .dvcignore names."""
    if not folders:
        return {}
    with opened(root) as repo:
        return {
            folder: dict(_files(repo, root.resolve() / folder, "", frozenset()))
            for folder in folders
        }


def _files(
    repo: "Repo", folder: Path, name: str, above: frozenset[Path]
) -> Iterator[tuple[str, Path]]:
    """The files in a folder, which is behind those links, by their names from the first one."""
    if folder.resolve() in above:
        return  # a link to where it is itself
    for place, folders, files in repo.dvcignore.walk(repo.fs, str(folder)):
        here = Path(place)
        below = Path(name, here.relative_to(folder))
        for file in files:
            yield (below / file).as_posix(), here / file
        for one in folders:
            if (here / one).is_symlink():
                behind = above | {folder.resolve()}
                yield from _files(repo, here / one, (below / one).as_posix(), behind)
