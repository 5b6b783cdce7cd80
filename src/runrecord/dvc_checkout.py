"""What DVC knows to be at a path, put there by DVC itself; and which files it sees in a folder."""

import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING

from runrecord.dvc_index import opened
from runrecord.files import sha256, sha256_of_files
from runrecord.text import reason

if TYPE_CHECKING:
    from dvc.repo import Repo


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
    return why


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


def hash_paths(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each file and folder that is there, less what .dvcignore names, by its path.

    Args:
        root: of the DVC repository.
        paths: from there.
    """
    there = [path for path in paths if (root / path).exists()]
    folders = files_in_folders(root, [path for path in there if (root / path).is_dir()])
    return {
        path: sha256_of_files(folders[path]) if path in folders else sha256(root / path)
        for path in there
    }


def files_in_folders(root: Path, folders: Collection[str]) -> dict[str, Mapping[str, Path]]:
    """The files that DVC sees in each of those folders, by their names in it."""
    if not folders:
        return {}
    with opened(root) as repo:
        found: dict[str, Mapping[str, Path]] = {}
        for folder in folders:
            base = str(root.resolve() / folder)
            names = repo.dvcignore.find(repo.fs, base)
            found[folder] = {Path(name).relative_to(base).as_posix(): Path(name) for name in names}
        return found
