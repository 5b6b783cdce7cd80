"""The code of a run: the commit, and what it differs by."""

import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from runrecord.provenance.git import GitFailed, OutsideGit, commit_of, git
from runrecord.secrets import holds_secret

_NO_CODE = ("dvc.lock", "mlflow.db", "mlflow.db-shm", "mlflow.db-wal", "mlruns", "tensorboard")
_PATCH_LIMIT = 2**20  # bytes


def describe_code(
    checkout: Path, code: Iterable[str], generated: Iterable[str] = ()
) -> tuple[dict[str, str], bytes, str]:
    """Tags that tell the code, its uncommitted change, and what stands in the way, if anything.

    Args:
        checkout: the root of the DVC repository.
        code: files and folders, from there.
        generated: what stages write, which is no code.
    """
    there = [f":(literal){name}" for name in code]  # what is gone is a change too
    there += [f":(exclude,literal){name}" for name in (*_NO_CODE, *generated)]
    try:
        commit = commit_of(checkout, "HEAD")
        if commit is None:
            raise GitFailed("the Git repository has no commit yet")
        tags = {
            "git.commit": commit,
            "git.branch": git(checkout, "branch", "--show-current").decode().strip(),
            "git.remote": _remote(checkout),
        }
    except OutsideGit:
        return {}, b"", "the code of the run is not recorded: this is no Git repository."
    except GitFailed as error:
        return {"git.error": str(error)}, b"", f"the code of the run is not recorded: {error}."
    try:
        patch, left_out = _change(checkout, there)
    except GitFailed as error:
        patch, left_out = b"", f"left out: {error}"
    tags |= {"git.dirty": str(bool(patch or left_out)).lower(), "git.patch": left_out}
    trouble = (
        f"the uncommitted change is {left_out}; commit what the run needs." if left_out else ""
    )
    return tags, patch, trouble


def _remote(checkout: Path) -> str:
    try:
        address = git(checkout, "remote", "get-url", "origin").decode(errors="replace").strip()
    except GitFailed:  # there is none
        return ""
    return re.sub(r"//[^/\s]*@", "//", address)


def _change(checkout: Path, there: Sequence[str]) -> tuple[bytes, str]:
    """The uncommitted change of those pathspecs, new files included; else why it is left out.

    Made by Git's plumbing, which no setting of a person's shapes.

    Raises:
        GitFailed: Git refuses a file.
    """
    with tempfile.TemporaryDirectory() as folder:
        own = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(checkout, "read-tree", "HEAD", environment=own)  # what a person has staged counts too
        listing = ("ls-files", "-z", "--modified", "--others", "--exclude-standard", "--", *there)
        names = git(checkout, *listing, environment=own)
        changed = [checkout / name for name in os.fsdecode(names).split("\0") if name]
        size = sum(path.lstat().st_size for path in changed if os.path.lexists(path))
        if size > _PATCH_LIMIT:
            return b"", f"left out: {size} bytes of files are changed, more than {_PATCH_LIMIT}"
        if not changed:
            return b"", ""
        exact = ("-c", "core.safecrlf=true")  # Git refuses what it would not give back as it is
        named = ("--pathspec-from-file=-", "--pathspec-file-nul")
        literal = {**own, "GIT_LITERAL_PATHSPECS": "1"}
        git(checkout, *exact, "add", "--all", *named, environment=literal, given=names)
        diff = ("diff-index", "--cached", "-p", "--binary", "--no-color", "--no-ext-diff")
        shape = ("--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")
        patch = git(checkout, *diff, *shape, "HEAD", environment=own)
    if holds_secret(patch.decode(errors="replace")):
        return b"", "left out: it holds a password or a token"
    return patch, ""
