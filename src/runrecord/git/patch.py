"""The code of a run: the commit and what it differs by; and that, checked out again."""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import suppress
from pathlib import Path

from runrecord.git.commands import GitFailed, IsolatedRepo, OutsideGit, commit_of, git, top_of
from runrecord.safety.secrets import HELD, OF_A_KIND, is_secret_kind, redact, secrets_in_patch
from runrecord.safety.text import printable, some

_DVC_TMP = ".dvc/tmp"
_MLFLOW = ("mlflow.db", "mlflow.db-shm", "mlflow.db-wal", "mlruns")
_NO_CODE = ("dvc.lock", _DVC_TMP, *_MLFLOW, "tensorboard")
_PATCH_LIMIT = 2**20  # bytes of changed files
_LONGEST_PATCH = 4 * _PATCH_LIMIT  # what is removed is in it too
_NAMED = 3  # files, in a tag
_REFS = ("refs/heads", "refs/tags", "refs/remotes")
_LISTING = ("ls-files", "-z", "--full-name")
_NAMES = ("-z", "--stdin")
_SUBMODULE = "160000"
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
            "git.branch": _said(checkout, "branch", "--show-current"),
            "git.remote": _remote(checkout),
        }
    except OutsideGit:
        return {}, b"", "the code of the run is not recorded: this is no Git repository."
    except GitFailed as error:
        return {"git.error": str(error)}, b"", f"the code of the run is not recorded: {error}."
    try:
        patch, less = _change(checkout, commit, there)
    except (_LeftOut, GitFailed, OSError) as why:
        patch, less = b"", f"{LEFT_OUT}{printable(redact(str(why)))}"
    tags |= {"git.dirty": str(bool(patch or less)).lower(), "git.patch": less}
    advice = "name them in .gitignore" if less.startswith(LESS) else "commit what the run needs"
    return tags, patch, f"the uncommitted change is {less}; {advice}." if less else ""


def check_out(of: Path, commit: str, patch: bytes, clone: Path) -> Path:
    """Make in `clone` the code of a run of the repository that `of` is in, whatever is there.

    Returns the folder in it that `of` is in that repository.

    Raises:
        GitFailed: Git refuses; it is a change of other files, for instance.
    """
    own = IsolatedRepo(of, clone)
    refs = git(of, "for-each-ref", "--format=create %(refname) %(objectname)", *_REFS)
    with suppress(GitFailed):  # some are broken; what asks for them will say so
        own.git("update-ref", "--stdin", given=refs)
    own.git("checkout", "--quiet", "--force", "--detach", commit, as_committed=True)
    if patch:
        own.git("apply", "--whitespace=nowarn", "-", given=patch)
    return clone / of.resolve().relative_to(top_of(of).resolve())


class _LeftOut(Exception):
    """A change is not recorded; the message is a clause that says why."""


def _said(checkout: Path, *arguments: str) -> str:
    return git(checkout, *arguments).decode(errors="replace").strip()


def _remote(checkout: Path) -> str:
    try:
        address = _said(checkout, "config", "--get", "remote.origin.url")
    except GitFailed:  # there is none
        return ""
    return re.sub(r"//[^/\s]*@", "//", address)


def _change(checkout: Path, commit: str, there: Sequence[str]) -> tuple[bytes, str]:
    """The uncommitted change of those pathspecs, new files included; what it is recorded without.

    It leads from what a checkout of the commit gives to the bytes of the files, and is tried.

    Raises:
        _LeftOut: it must not be kept, or would not give the files back.
    """
    top = top_of(checkout)
    if not checkout.resolve().is_relative_to(top.resolve()):
        raise _LeftOut(f"Git's core.worktree is {top}, which {checkout} is not in")
    beside = checkout / _DVC_TMP  # on the disk that the files are on, where that can be written
    place = beside if os.access(beside, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="runrecord-", dir=place) as name:
        own, was = IsolatedRepo(checkout, Path(name)), Path(name, "was")
        own.git("read-tree", commit)
        changed, code = _changed(own, checkout, top, there)
        committed = code & (changed | _converted(own, code))
        was.mkdir()
        given = _listed(committed)
        own.git("checkout-index", *_NAMES, tree=was, given=given, as_committed=True)
        # Attributes make other bytes of files that nobody changed.
        changed = (changed - committed) | _differing(own, committed, top, was)
        changed, without = _recordable(top, changed, committed)
        less = LESS + ", and without ".join(without) if without else ""
        if not changed:
            return b"", less
        own.git("read-tree", commit)
        _add(own, top, changed)
        patch = own.git("diff-index", "-p", "--cached", "--binary", "--full-index", commit)
        if len(patch) > _LONGEST_PATCH:
            raise _LeftOut(f"it has {len(patch)} bytes, more than {_LONGEST_PATCH}")
        if found := secrets_in_patch(patch, top, [top / name for name in sorted(changed)]):
            raise _LeftOut(f"{', '.join(found)} {HELD}")
        with suppress(GitFailed):  # what it does not apply to, and that alone, differs then
            own.git("apply", "--whitespace=nowarn", "--reject", "-", tree=was, given=patch)
        if other := _differing(own, changed, top, was):
            raise _LeftOut(f"a checkout of it gives other bytes of {min(other)}")
    return patch, less


def _changed(
    own: IsolatedRepo, checkout: Path, top: Path, there: Sequence[str]
) -> tuple[set[str], set[str]]:
    """The files that differ by their bytes from the commit, or are new; those of the commit."""
    staged = _split(own.git(*_LISTING, "--stage", "--", *there, tree=top, cwd=checkout))
    modes = {name: about[:6] for about, _, name in (line.partition("\t") for line in staged)}
    new = ("--others", "--exclude-standard", "--", *there)
    changed = {*_split(own.git(*_LISTING, "--modified", *new, tree=top, cwd=checkout))}
    if changed - modes.keys():  # a person's own settings ignore files, too
        exact = ("-c", "core.ignoreCase=false")
        changed &= modes.keys() | {*_split(git(checkout, *exact, *_LISTING, "--cached", *new))}
    submodules = {name for name, mode in modes.items() if mode == _SUBMODULE}
    for name in sorted(submodules):
        status = ("status", "--porcelain", "--ignore-submodules=none")
        if (top / name / ".git").exists() and (name in changed or git(top / name, *status)):
            raise _LeftOut(f"the submodule {name} is not as it is committed")
    changed -= submodules
    if nested := sorted(name for name in changed if name.endswith("/")):
        raise _LeftOut(f"{nested[0]} is a Git repository of its own")
    return changed, modes.keys() - submodules


def _converted(own: IsolatedRepo, names: Set[str]) -> set[str]:
    """Files that a checkout may give other bytes than those that are committed."""
    wanted = ("eol", "ident", "working-tree-encoding", "filter")
    command = ("check-attr", "--cached", *_NAMES, *wanted)
    told = _split(own.git(*command, given=_listed(names), as_committed=True))
    values = zip(told[::3], told[2::3], strict=True)
    return {name for name, value in values if value not in ("unspecified", "unset", "lf")}


def _recordable(top: Path, changed: Set[str], committed: Set[str]) -> tuple[set[str], list[str]]:
    """The changed files that are recorded; the new ones that are not, in clauses.

    These are of a kind that keeps passwords, or the largest ones that are too much together.
    """
    secret = sorted(name for name in changed - committed if is_secret_kind(name))
    without = [f"{some(secret, _NAMED)}, which {OF_A_KIND}"] if secret else []
    sizes = {name: (top / name).lstat().st_size for name in _there(top, changed - {*secret})}
    new = sorted(sizes.keys() - committed, key=lambda name: (-sizes[name], name))
    large, size = list[str](), sum(sizes.values())
    while size > _PATCH_LIMIT and new:
        large.append(new.pop(0))
        size -= sizes[large[-1]]
    if size > _PATCH_LIMIT:
        raise _LeftOut(f"{size} bytes of files are changed, more than {_PATCH_LIMIT}")
    if large:
        lost = sum(sizes[name] for name in large) / 1e6
        without.append(f"{some(large, _NAMED)} (too large: {lost:.1f} MB)")
    return set(changed) - {*secret, *large}, without


def _differing(own: IsolatedRepo, names: Set[str], *trees: Path) -> set[str]:
    """Those of the files that differ between two folders, by bytes or kind."""
    found = []
    for tree in trees:
        _add(own, tree, names)
        found.append(own.git("write-tree").decode().strip())
    return {*_split(own.git("diff-tree", "-r", "-z", "--name-only", *found))}


def _add(own: IsolatedRepo, tree: Path, names: Set[str]) -> None:
    """Make the index hold those files as they are in `tree`, or not where they are not there."""
    there = {*_there(tree, names)}
    if gone := names - there:
        own.git("update-index", "--force-remove", *_NAMES, tree=tree, given=_listed(gone))
    if there:
        own.git("update-index", "--add", "--replace", *_NAMES, tree=tree, given=_listed(there))


def _there(tree: Path, names: Iterable[str]) -> Iterator[str]:
    """Those of them that are files or links in `tree`, and not behind a link."""
    for name in names:
        path = tree / name
        behind = path.parents[: name.count("/")]
        if (path.is_symlink() or path.is_file()) and not any(map(Path.is_symlink, behind)):
            yield name


def _split(told: bytes) -> list[str]:
    return os.fsdecode(told).split("\0")[:-1]


def _listed(names: Iterable[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in sorted(names))
