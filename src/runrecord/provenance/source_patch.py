"""The code of a run: the commit, and what it differs by."""

import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runrecord.provenance.git import GitFailed, OutsideGit, commit_of, git
from runrecord.secrets import HELD, OF_A_KIND, is_secret_kind, secrets_in_patch
from runrecord.text import printable

_NO_CODE = ("dvc.lock", "mlflow.db", "mlflow.db-shm", "mlflow.db-wal", "mlruns", "tensorboard")
_PATCH_LIMIT = 2**20  # bytes
LEFT_OUT, LESS = "left out: ", "recorded without "
"""How the tag `git.patch` begins: nothing of the change is recorded, or all but some files."""


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
        patch, left_out = b"", f"{LEFT_OUT}{error}"
    tags |= {"git.dirty": str(bool(patch or left_out)).lower(), "git.patch": left_out}
    advice = "name them in .gitignore" if left_out.startswith(LESS) else "commit what the run needs"
    trouble = f"the uncommitted change is {left_out}; {advice}." if left_out else ""
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
        names, less = _less_secret_kinds(git(checkout, *listing, environment=own), checkout, own)
        changed = [checkout / name for name in os.fsdecode(names).split("\0") if name]
        size = sum(path.lstat().st_size for path in changed if os.path.lexists(path))
        if size > _PATCH_LIMIT:
            return b"", f"{LEFT_OUT}{size} bytes of files are changed, more than {_PATCH_LIMIT}"
        if not changed:
            return b"", less
        exact = ("-c", "core.safecrlf=true")  # Git refuses what it would not give back as it is
        named = ("--pathspec-from-file=-", "--pathspec-file-nul")
        literal = {**own, "GIT_LITERAL_PATHSPECS": "1"}
        git(checkout, *exact, "add", "--all", *named, environment=literal, given=names)
        diff = ("diff-index", "--cached", "-p", "--binary", "--no-color", "--no-ext-diff")
        shape = ("--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")
        patch = git(checkout, *diff, *shape, "HEAD", environment=own)
    if found := secrets_in_patch(patch, checkout, changed):
        return b"", f"{LEFT_OUT}{printable(', '.join(found))} {HELD}"
    return patch, less


def _less_secret_kinds(names: bytes, checkout: Path, own: Mapping[str, str]) -> tuple[bytes, str]:
    """Those names, NUL after each, less new files of a kind that keeps passwords; which these are.

    Raises:
        GitFailed: Git refuses to look.
    """
    found = [name for name in names.split(b"\0") if is_secret_kind(os.fsdecode(name))]
    if not found:
        return names, ""
    known = git(checkout, "ls-files", "-z", environment=own).split(b"\0")
    new = [name for name in found if name not in known]
    kept = b"".join(name + b"\0" for name in names.split(b"\0") if name and name not in new)
    told = ", ".join(map(os.fsdecode, new))
    return kept, f"{LESS}{printable(told)}, which {OF_A_KIND}" if new else ""
