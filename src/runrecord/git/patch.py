"""The code of a run: the commit, and what it differs by."""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path

from runrecord.git.commands import GitFailed, IsolatedRepo, OutsideGit, commit_of, git, top_of
from runrecord.safety.secrets import HELD, OF_A_KIND, is_secret_kind, redact, secrets_in_patch
from runrecord.safety.text import printable

_DVC_TMP = ".dvc/tmp"
_MLFLOW = ("mlflow.db", "mlflow.db-shm", "mlflow.db-wal", "mlruns")
_NO_CODE = ("dvc.lock", _DVC_TMP, *_MLFLOW, "tensorboard")
_PATCH_LIMIT = 2**20  # bytes of changed files
_LONGEST_PATCH = 4 * _PATCH_LIMIT  # what is removed is in it too
_NAMED = 3  # files, in a tag
_NO_PROGRAM = re.compile(r"(^|/)(\.|__pycache__/)|\.pyc$|~$")  # nobody imports it
_REFS = ("refs/heads", "refs/tags", "refs/remotes")
_NAMES = ("-z", "--stdin")
_SUBMODULE = "160000"
LEFT_OUT, LESS = "left out: ", "recorded without "
"""How the tag `git.patch` begins: nothing of the change is recorded, or all but some files."""
_IS_SPARSE = ("config", "--get", "--default=false", "--type=bool", "core.sparseCheckout")
_STATUS = ("status", "--porcelain", "--ignore-submodules=none")


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
    patch, left_out, hidden = b"", "", ""
    try:
        patch, hidden, left_out = _change(checkout, commit, there)
    except _LeftOut as why:
        left_out = f"{LEFT_OUT}{printable(redact(str(why)))}"
    except (GitFailed, OSError) as error:
        left_out = f"{LEFT_OUT}{printable(str(error))}"
    tags |= {"git.dirty": str(bool(patch or left_out)).lower(), "git.patch": left_out}
    tags["git.ignored"] = hidden
    advice = "name them in .gitignore" if left_out.startswith(LESS) else "commit what the run needs"
    return tags, patch, f"the uncommitted change is {left_out}; {advice}." if left_out else ""


def check_out(of: Path, commit: str, patch: bytes, clone: Path) -> None:
    """Make in `clone` the code of a run of the repository that `of` is in, whatever is there.

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


def _change(checkout: Path, commit: str, there: Sequence[str]) -> tuple[bytes, str, str]:
    """The uncommitted change of those pathspecs, new files included.

    Also what is hidden, and what the change is recorded without, both as tags.

    It leads from the bytes that are committed to those of the files. It is tried at once, on what a
    checkout makes of the commit: Git's attributes may give that other bytes.

    Raises:
        GitFailed: Git refuses a file.
        _LeftOut: it must not be kept, or would not give the files back.
    """
    top = top_of(checkout)
    if not checkout.resolve().is_relative_to(top.resolve()):
        raise _LeftOut(f"Git's core.worktree is {top}, which {checkout} is not in")
    beside = checkout / _DVC_TMP  # on the disk that the files are on, where that can be written
    place = beside if os.access(beside, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="runrecord-", dir=place) as name:
        folder = Path(name)
        own = IsolatedRepo(checkout, folder)
        own.git("read-tree", commit)
        changed, converted, hidden, without = _look(own, checkout, top, commit, there)
        less = LESS + ", and without ".join(without) if without else ""
        if not changed | converted:
            return b"", hidden, less
        committed = {*_split(own.git("ls-files", "-z"))} & (changed | converted)
        _add(own, top, changed)
        patch = own.git("diff-index", "-p", "--cached", "--binary", "--full-index", commit)
        if len(patch) > _LONGEST_PATCH:
            raise _LeftOut(f"it has {len(patch)} bytes, more than {_LONGEST_PATCH}")
        if found := secrets_in_patch(patch, top, [top / name for name in sorted(changed)]):
            raise _LeftOut(f"{', '.join(found)} {HELD}")
        was = folder / "was"
        was.mkdir()
        own.git("read-tree", commit)
        given = _listed(committed)
        own.git("checkout-index", *_NAMES, tree=was, given=given, as_committed=True)
        if patch:
            own.git("apply", "--whitespace=nowarn", "-", tree=was, given=patch)
        trees = []
        for tree in (top, was):
            _add(own, tree, changed | converted)
            trees.append(own.git("write-tree").decode().strip())
        if other := _split(own.git("diff-tree", "-r", "-z", "--name-only", *trees)):
            raise _LeftOut(f"a checkout of it gives other bytes of {other[0]}")
    return patch, hidden, less


def _look(
    own: IsolatedRepo, checkout: Path, top: Path, commit: str, there: Sequence[str]
) -> tuple[set[str], set[str], str, list[str]]:
    """What differs by its bytes; what attributes make other bytes of. What is hidden, as a tag.

    Last, new files that are not recorded, in clauses: those that keep passwords or are too large.

    Raises:
        GitFailed: Git refuses a file.
        _LeftOut: some of it cannot be recorded.
    """
    listing = ("ls-files", "-z", "--full-name")
    staged = _split(own.git(*listing, "--stage", "--", *there, tree=top, cwd=checkout))
    modes = {name: about[:6] for about, _, name in (line.partition("\t") for line in staged)}
    submodules = {name for name, mode in modes.items() if mode == _SUBMODULE}
    unlike = ("--others", "--exclude-standard", "--", *there)
    changed = {*_split(own.git(*listing, "--modified", *unlike, tree=top, cwd=checkout))}
    gone = sorted((changed & modes.keys()) - {*_there(top, changed)} - submodules)
    if gone and _said(checkout, *_IS_SPARSE) == "true":
        raise _LeftOut(f"{gone[0]} is not in this sparse checkout (see 'git sparse-checkout')")
    new, hidden = changed - modes.keys(), set[str]()
    if new:  # those that a person's own settings alone ignore are hidden
        exact = ("-c", "core.ignoreCase=false")
        hidden = new - {*_split(git(checkout, *exact, *listing, "--cached", *unlike))}
    changed -= hidden
    secret = sorted(name for name in new - hidden if is_secret_kind(name))
    without = [f"{printable(', '.join(secret))}, which {OF_A_KIND}"] if secret else []
    changed -= {*secret}
    for name in sorted(submodules):
        if (top / name / ".git").exists() and (name in changed or git(top / name, *_STATUS)):
            raise _LeftOut(f"the submodule {name} is not as it is committed")
    changed -= submodules
    if nested := sorted(name for name in changed if name.endswith("/")):
        raise _LeftOut(f"{nested[0]} is a Git repository of its own")
    converted, filtered = _attributes(own, modes.keys())
    converted |= filtered - changed
    changed -= converted
    if behind := {*_there(top, changed & filtered)}:
        given = _listed(behind)
        own.git("update-index", *_NAMES, tree=top, given=given, as_committed=True)
        if other := _split(own.git("diff-index", "-z", "--cached", "--name-only", commit)):
            raise _LeftOut(f"{other[0]} goes through a filter of Git's")
        changed -= behind
    sizes = {name: (top / name).lstat().st_size for name in _there(top, changed)}
    if large := _too_large(sizes, modes.keys()):
        size = sum(sizes[name] for name in large) / 1e6
        without.append(f"{_some(large)} (too large: {size:.1f} MB)")
    named = sorted(name for name in hidden if not _NO_PROGRAM.search(name))
    return changed - {*large}, converted, _some(named), without


def _too_large(sizes: Mapping[str, int], tracked: Set[str]) -> list[str]:
    """The fewest new files, the largest, without which the rest is small enough to be recorded.

    Raises:
        _LeftOut: the files that are committed are too large already.
    """
    size, large = sum(sizes.values()), []
    for name in sorted(sizes.keys() - tracked, key=lambda name: (-sizes[name], name)):
        if size > _PATCH_LIMIT:
            size -= sizes[name]
            large.append(name)
    if size > _PATCH_LIMIT:
        raise _LeftOut(f"{size} bytes of files are changed, more than {_PATCH_LIMIT}")
    return large


def _attributes(own: IsolatedRepo, tracked: Set[str]) -> tuple[set[str], set[str]]:
    """Committed files whose attributes may make other bytes of them; those with a filter."""
    wanted = ("eol", "ident", "working-tree-encoding", "filter")
    command = ("check-attr", "--cached", *_NAMES, *wanted)
    told = _split(own.git(*command, given=_listed(tracked), as_committed=True))
    converted, filtered = set(), set()
    for name, attribute, value in zip(told[::3], told[1::3], told[2::3], strict=True):
        if attribute == "filter" and own.has_filter(value):
            filtered.add(name)
        elif attribute != "filter" and value not in ("unspecified", "unset", "lf"):
            converted.add(name)
    return converted - filtered, filtered


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


def _some(names: Sequence[str]) -> str:
    """The first of those names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return printable(", ".join(names[:_NAMED])) + more


def _split(told: bytes) -> list[str]:
    return os.fsdecode(told).split("\0")[:-1]


def _listed(names: Iterable[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in sorted(names))
