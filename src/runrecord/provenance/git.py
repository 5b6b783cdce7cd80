"""Runs Git: free of its caller's steering, and never taken at less than its word when it fails."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from runrecord.errors import UserError
from runrecord.secrets import redact
from runrecord.text import printable

_SAFE = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")

# Who somebody is, and where Git and its configuration are, steers nothing. All other variables do:
# GIT_DIR, GIT_INDEX_FILE and their kin are set in hooks, and would lead to the caller's repository.
_KEPT = re.compile(
    r"GIT_(AUTHOR|COMMITTER)_\w+|GIT_CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)|GIT_EXEC_PATH|GIT_SSL_\w+"
    r"|GIT_SSH|GIT_SSH_COMMAND|GIT_DISCOVERY_ACROSS_FILESYSTEM|GIT_TEST_ASSUME_DIFFERENT_OWNER"
)


class GitFailed(UserError):
    """Git is not there or refuses; the message has its own words, and what it advises."""


class OutsideGit(GitFailed):
    """The folder is in no Git repository."""


def git(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
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


def unsteered(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment less all by which a caller steers Git.

    Of settings that come this way, only which repositories of other owners are safe stays.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith("GIT_") or _KEPT.fullmatch(name)
    }
    keys = [name for name, value in environment.items() if _is_safe_directory(name, value)]
    safe = [environment.get(name.replace("_KEY_", "_VALUE_"), "") for name in keys]
    for number, folder in enumerate(safe):
        kept[f"GIT_CONFIG_KEY_{number}"] = "safe.directory"
        kept[f"GIT_CONFIG_VALUE_{number}"] = folder
    return {**kept, "GIT_CONFIG_COUNT": str(len(safe))} if safe else kept


def _is_safe_directory(name: str, value: str) -> bool:
    return name.startswith("GIT_CONFIG_KEY_") and value.lower() == "safe.directory"


def forget_steering() -> None:
    """Free this process of what steers Git: DVC, which it may load, runs Git too."""
    kept = unsteered(os.environ)
    for name in os.environ.keys() - kept:
        del os.environ[name]
    os.environ.update(kept)


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


def _failure(said: str) -> GitFailed:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("fatal: ", "error: "))] or lines[-1:]
    message = re.sub(r"^(fatal|error): ", "", told[0] if told else "it failed without a word")
    kind = OutsideGit if message.startswith("not a git repository (or any") else GitFailed
    advised = [f"; run '{line}'" for line in lines if line.startswith("git config ")]
    return kind(printable(redact("".join([f"Git refuses: {message.rstrip('.')}", *advised[:1]]))))
