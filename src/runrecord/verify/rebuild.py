"""Rebuilding a run from its record: the commit, the change, the data, then its stage once more."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from secrets import token_hex

from runrecord.dvc_checkout import bring, hash_paths, is_related
from runrecord.dvc_index import Stage, stages_of, tracked_by_dvc
from runrecord.dvc_locks import states
from runrecord.dvc_restore import restore
from runrecord.errors import UserError
from runrecord.events import COMMIT, RunStarted
from runrecord.package_index import uv_environment
from runrecord.process import end_program
from runrecord.provenance.environment import variables_of
from runrecord.provenance.git import GitFailed, commit_of, top_of
from runrecord.provenance.source_patch import LEFT_OUT, check_out
from runrecord.record.reader import Record, files_in
from runrecord.run_store import is_running, run_dirs, state_folder, working_on
from runrecord.secrets import redact
from runrecord.text import printable, shown

_NOT_INHERITED = ("DVC_", "GENERATIVE_", "GIT_", "MLFLOW_", "RUNRECORD_")
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # a rebuilt run is on record wherever verify runs

# The shells that DVC may run commands by, and what it tells them so that they read no settings.
_SHELLS = {
    "sh": (),
    "dash": (),
    "ksh": (),
    "fish": ("--no-config",),
    "bash": ("--noprofile", "--norc"),
    "zsh": ("--no-rcs",),
}


class CannotRebuild(Exception):
    """Something is missing; the message is a clause for a person that says what."""


@dataclass(frozen=True)
class Rebuilt:
    """What came of rebuilding a run."""

    record: Record | None
    """Of the run that is its counterpart; None where the stage left too few runs."""
    count: int
    """How many runs the same program of the stage left."""
    commit: str
    """What the code was checked out from."""
    outside: tuple[str, ...]
    """Outs of the stage outside the repository, which nothing reads."""


def rebuild(root: Path, original: Record, folder: Path, own_packages: bool) -> Rebuilt:
    """Run a stage as it was run, in `folder`; the record of the new run lies there too.

    Nothing of it reaches the tracking store, and neither DVC's run cache nor a checkpoint is used.
    Of several runs that the stage leaves, the counterpart is the one of the same program and of
    the same number among that program's runs.

    Args:
        root: the main repository.
        original: the run's record.
        folder: an empty one, for the clone.
        own_packages: also make a virtual environment from the lock file of the run's commit.

    Raises:
        CannotRebuild: the commit, the change or the data cannot be had, or the stage fails.
    """
    start = original.start
    checkout, commit = _check_out(root, start, original.patch(), folder / "repository")
    search = Path(sys.executable).parent
    if own_packages:
        search = _install(checkout, folder / "environment")
    stages = _stages(checkout)
    if start.stage not in stages:
        raise CannotRebuild(f"its dvc.yaml has no stage '{start.stage}'")
    work = _Work(root, original, checkout, commit, stages, _environment(start, checkout, search))
    work.restore(start.stage)
    _run_stage(stages[start.stage], checkout, work.environment, start.tags.get("dvc.shell"))
    found = [Record(files_in(path)) for path in run_dirs(checkout)]
    again = [record for record in found if record.start.stage == start.stage]
    if not again:
        raise CannotRebuild(
            f"{start.stage} of that commit leaves no record where one is looked for"
        )
    same = [record for record in again if record.start.command == start.command] or again
    own = [record for record in same if record.start.number == start.number]
    return Rebuilt(own[0] if own else None, len(same), commit, stages[start.stage].outside)


def _stages(checkout: Path) -> Mapping[str, Stage]:
    try:
        return stages_of(checkout)
    except UserError as error:
        raise CannotRebuild(str(error).rstrip(".")) from None


@dataclass(frozen=True)
class _Work:
    """A run that is rebuilt."""

    root: Path
    original: Record
    checkout: Path
    commit: str
    stages: Mapping[str, Stage]
    environment: Mapping[str, str]

    def restore(self, name: str) -> None:
        """Bring what a stage reads: from where it is kept, else made again by its own stage."""
        digests, read, checkout = self.original.start.deps, self.stages[name].deps, self.checkout
        makers = {path: other for other, stage in self.stages.items() for path in stage.outs}
        tracked = tracked_by_dvc(checkout)
        its = hash_paths(checkout, read)
        lacking = {
            path: digests[path]
            for path in read
            if path in digests
            and its.get(path) != digests[path]
            # What Git alone has is the commit's, whatever the record says.
            and (path not in its or any(is_related(path, out) for out in (*makers, *tracked)))
        }
        patch, stages = self.original.patch(), self.stages.values()
        scratch = checkout.parent / "inputs"
        why = restore(self.root, checkout, lacking, scratch, self.commit, patch, [*stages])
        its = hash_paths(checkout, read)
        for path in read:
            if path in its and its[path] == digests.get(path, its[path]):
                continue
            if path not in its and any(is_related(out, path) for out in tracked):
                why = bring(checkout, [path]) or why  # the run's record does not name it
            for maker in dict.fromkeys(makers[out] for out in makers if is_related(out, path)):
                print(shown(f"{path} is kept nowhere: running {maker}"), file=sys.stderr)
                self.restore(maker)
                _run_stage(self.stages[maker], checkout, self.environment)
            if path in digests and not (checkout / path).exists():
                because = f" ({why})" if why else ""
                raise CannotRebuild(
                    f"{path}, which it read, is neither here nor in DVC's cache or "
                    f"remote{because}; run 'dvc push' where the run was made"
                )


def _run_stage(
    stage: Stage, checkout: Path, environment: Mapping[str, str], shell: str | None = None
) -> None:
    """Run the commands of a stage, each after the one before it ended well, by the same shell."""
    if not stage.commands:
        raise CannotRebuild("its dvc.yaml gives the stage no command of its own")
    name = Path(shell or "sh").name
    program = shutil.which(name)
    if name not in _SHELLS or program is None:
        raise CannotRebuild(f"it was run by the shell '{printable(name)}', which is not here")
    for command in stage.commands:
        words = [program, *_SHELLS[name], "-c", command]
        named = {**environment, "DVC_STAGE": stage.name, "SHELL": program}
        _run(stage.name, words, checkout / stage.folder, named)


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A folder that goes when it is done with; those of processes that were killed go too."""
    folders = state_folder(root) / "verify"
    for left in folders.glob("*/"):
        if not is_running(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = folders / token_hex(4)
    folder.mkdir(parents=True)
    try:
        with working_on(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another process verifies too
            folders.rmdir()


def _check_out(root: Path, start: RunStarted, patch: bytes, clone: Path) -> tuple[Path, str]:
    """The code of a run, in a clone: the folder in it that `root` is in its own repository.

    Also the commit that it is from: the run's own or, where that is not here, one whose files are
    those that the run read.
    """
    commit = start.tags.get("git.commit", "")
    if refused := start.tags.get("git.error"):
        raise CannotRebuild(f"its code was not recorded: {refused}")
    if not COMMIT.fullmatch(commit):
        raise CannotRebuild("it was run outside Git, so that its code is not known")
    if (left_out := start.tags.get("git.patch", "")).startswith(LEFT_OUT):
        raise CannotRebuild(f"its uncommitted change was {left_out}")
    try:
        checkout = clone / root.resolve().relative_to(top_of(root).resolve())
        if commit_of(root, commit) is None:
            return checkout, _check_out_equal(root, start, patch, clone, checkout)
        check_out(root, commit, patch, clone)
    except GitFailed as error:
        raise CannotRebuild(str(error)) from None
    return checkout, commit


def _check_out_equal(
    root: Path, start: RunStarted, patch: bytes, clone: Path, checkout: Path
) -> str:
    """Check out a commit in place of the run's: the newest whose files are those that it read."""
    commits = [state.commit for state in states(root, *start.deps) if any(state.ids)]
    # The change may have been committed by then.
    for commit, change in product(filter(None, commits), {patch: 1, b"": 1}):
        with suppress(UserError):  # the change is of other files, or DVC cannot read it
            check_out(root, commit, change, clone)
            stages = stages_of(checkout)
            outs = [out for stage in stages.values() for out in stage.outs]
            outs += tracked_by_dvc(checkout)
            code = [path for path in start.deps if not any(is_related(path, out) for out in outs)]
            equal = hash_paths(checkout, code) == {path: start.deps[path] for path in code}
            if start.stage in stages and code and equal:
                return commit
    raise CannotRebuild(
        f"its commit {start.tags['git.commit']} is not in this clone, nor one whose files are all "
        "those that it read; fetch it, if it is anywhere"
    )


def _install(checkout: Path, environment: Path) -> Path:
    """Make a virtual environment from the checkout's lock file; the folder of its programs."""
    lock = checkout / "requirements.lock"
    if not lock.exists():
        raise CannotRebuild("its commit has no requirements.lock to install from")
    python = environment / "bin" / "python"
    uv = shutil.which("uv", path=_search(Path(sys.executable).parent)) or "uv"
    install = [uv, "pip", "install", "--quiet", "--require-hashes", "--requirements", str(lock)]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(environment)],
        [*install, "--python", str(python)],
    ):
        _run("--env", command, checkout, uv_environment())
    return python.parent


def _environment(start: RunStarted, checkout: Path, search: Path) -> dict[str, str]:
    """Variables that change numbers as the run had them, unless a person sets them; all others."""
    mine = {
        key: text
        for key, text in os.environ.items()
        if not key.startswith(_NOT_INHERITED) and key not in _RANKS
    }
    return {
        **variables_of(start.tags),
        **mine,
        "PATH": _search(search),
        "DVC_ROOT": str(checkout),
        "RUNRECORD_SINKS": "off",
        "GENERATIVE_TRACKERS": "off",  # for commits of version 0.1
        "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",  # in the clone, for code that knows no `off`
    }


def _search(first: Path) -> str:
    return f"{first}{os.pathsep}{os.environ.get('PATH', '')}"


def _run(name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Run a command to its end, what it says going to standard error; if we stop, so does it."""
    said = ""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                sys.stderr.write(f"{shown(line)}\n")
                said = line if line.strip() else said
            process.wait()
        finally:
            end_program(process, partial(os.killpg, process.pid))
    if process.returncode:
        raise CannotRebuild(f"{name} fails here: {_last_line(said).removeprefix('error: ')}")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return redact(lines[-1].strip().rstrip(".")) if lines else "without a word"
