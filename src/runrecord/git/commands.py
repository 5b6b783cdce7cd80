"""Runs Git free of what steers its caller; a failure is said in Git's own words."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from runrecord.errors import UserError
from runrecord.safety.secrets import redact
from runrecord.safety.text import printable

_SAFE = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")

# Without a person's settings; their attributes and ignored files have places of their own.
_ISOLATED = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
}
_ISOLATED_TOO = ("-c", "core.attributesFile=/dev/null", "-c", "core.excludesFile=/dev/null")
_BYTES = "* -text !eol !ident !filter !working-tree-encoding !diff !whitespace\n"

# Who somebody is, and where Git and its configuration are, steers nothing. All other variables do:
# GIT_DIR, GIT_INDEX_FILE and their kin are set in hooks, and would lead to the caller's repository.
_KEPT = re.compile(
    r"GIT_(AUTHOR|COMMITTER)_\w+|GIT_CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)|GIT_EXEC_PATH|GIT_SSL_\w+"
    r"|GIT_SSH|GIT_SSH_COMMAND|GIT_DISCOVERY_ACROSS_FILESYSTEM|GIT_TEST_ASSUME_DIFFERENT_OWNER"
)

Environment = Mapping[str, str]


class GitFailed(UserError):
    """Git is not there or refuses; the message has its own words, and what it advises."""


class OutsideGit(GitFailed):
    """The folder is in no Git repository."""


def git(
    folder: Path,
    *arguments: str,
    environment: Environment | None = None,
    given: bytes | None = None,
) -> bytes:
    """What a Git command prints, run in `folder`.

    Revisions that are not whole commit ids belong behind `--end-of-options`.

    Raises:
        OutsideGit: `folder` is in no repository.
        GitFailed: there is no Git, or it refuses.
    """
    try:
        done = subprocess.run(
            ["git", *_SAFE, *arguments],
            cwd=folder,
            env={**unsteered(os.environ), "LC_ALL": "C", **(environment or {})},
            input=given,
            stdin=None if given is not None else subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise GitFailed(f"Git cannot be run ({error.strerror}); install it") from None
    if done.returncode:
        raise _failure(done.stderr.decode(errors="replace"))
    return done.stdout


def top_of(folder: Path) -> Path:
    """The root of the Git repository that a folder is in.

    Raises:
        GitFailed: it is in none, or Git refuses.
    """
    return Path(os.fsdecode(git(folder, "rev-parse", "--show-toplevel").removesuffix(b"\n")))


class IsolatedRepo:
    """A new repository with the objects of another one: what it writes is the same whoever asks.

    It has no settings, no attributes but those that are committed, no index and no refs.
    """

    def __init__(self, of: Path, folder: Path) -> None:
        """Make one of the repository that `of` is in, on the disk where its files will be.

        `folder` is empty or not there. Git looks what its disk can hold.
        """
        self.folder, self._of = folder, of
        asked = git(of, "rev-parse", "--show-object-format", "--git-path", "objects")
        kind, _, objects = os.fsdecode(asked.removesuffix(b"\n")).partition("\n")
        own = {**_ISOLATED, "GIT_DEFAULT_HASH": kind}  # SHA-1 or SHA-256
        git(of, *_ISOLATED_TOO, "init", "--quiet", "--template=", str(folder), environment=own)
        alternates = folder / ".git/objects/info/alternates"
        alternates.parent.mkdir(exist_ok=True)
        alternates.write_bytes(os.fsencode((of / objects).resolve()) + b"\n")
        (folder / ".git/info").mkdir(exist_ok=True)

    def git(
        self,
        *arguments: str,
        tree: Path | None = None,
        cwd: Path | None = None,
        given: bytes | None = None,
        as_committed: bool = False,
    ) -> bytes:
        """What a Git command prints that reads `given`; its files are in `tree`, or beside `.git`.

        Files are the bytes they are or, `as_committed`, turned into what is committed, and back, by
        the attributes in the tree and the filters that those name, as Git LFS.

        Raises:
            GitFailed: Git refuses.
        """
        tree = tree or self.folder
        place = {"GIT_DIR": str(self.folder / ".git"), "GIT_WORK_TREE": str(tree)}
        environment = {**_ISOLATED, **place, **(self._filters if as_committed else {})}
        attributes = self.folder / ".git/info/attributes"  # they count before those in the tree
        attributes.write_text("" if as_committed else _BYTES)
        return git(cwd or tree, *_ISOLATED_TOO, *arguments, environment=environment, given=given)

    @cached_property
    def _filters(self) -> Environment:
        """A person's settings of filters, as variables."""
        listed = os.fsdecode(git(self._of, "config", "--null", "--list")).split("\0")
        pairs = (line.partition("\n")[::2] for line in listed)
        found = [(key, value) for key, value in pairs if key.startswith("filter.")]
        variables = {"GIT_CONFIG_COUNT": str(len(found))}
        for at, (key, value) in enumerate(found):
            variables |= {f"GIT_CONFIG_KEY_{at}": key, f"GIT_CONFIG_VALUE_{at}": value}
        return variables


def unsteered(environment: Environment) -> dict[str, str]:
    """The environment less all by which a caller steers Git."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("GIT_") or _KEPT.fullmatch(name)
    }


@contextmanager
def unsteered_process() -> Iterator[None]:
    """For as long as DVC is used in this process, nothing steers Git, which it runs too.

    DVC's imports put others in the place of the standard streams; these are put back.
    """
    streams = sys.stdout, sys.stderr
    steering = dict(os.environ.items() - unsteered(os.environ).items())
    for name in steering:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(steering)
        sys.stdout, sys.stderr = streams


def commit_of(folder: Path, revision: str) -> str | None:
    """The commit that a revision names, if it names one.

    Raises:
        GitFailed: Git refuses to look.
    """
    git(folder, "rev-parse", "--git-dir")
    try:
        found = git(folder, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    except GitFailed:
        return None
    return found.decode().splitlines()[-1]


def commits_that_changed(folder: Path, paths: Iterable[str]) -> list[str]:
    """The commits of all refs that changed what is at those paths below it, the newest first.

    Raises:
        GitFailed: Git refuses, as it does paths outside the repository.
    """
    if not (wanted := [f":(literal){path}" for path in paths]):
        return []
    return git(folder, "rev-list", "--all", "--full-history", "--", *wanted).decode().split()


def _failure(said: str) -> GitFailed:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("fatal: ", "error: "))] or lines[-1:]
    message = re.sub(r"^(fatal|error): ", "", told[0] if told else "it failed without a word")
    kind = OutsideGit if message.startswith("not a git repository (or any") else GitFailed
    advised = [f"; run '{line}'" for line in lines if line.startswith("git config ")]
    return kind(printable(redact("".join([f"Git refuses: {message.rstrip('.')}", *advised[:1]]))))
