"""Rebuilding a run from its record: the commit, the change, the data, then its stage once more."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex

from runrecord.dvc_cache import restore_out
from runrecord.dvc_index import Stage, stages_of
from runrecord.errors import UserError
from runrecord.events import COMMIT, RunStarted
from runrecord.files import sha256_of
from runrecord.package_index import uv_environment
from runrecord.process import end_program
from runrecord.provenance.git import GitFailed, commit_of, top_of
from runrecord.provenance.source_patch import LEFT_OUT, check_out
from runrecord.record.reader import Record, files_in
from runrecord.run_store import is_running, run_dirs, state_folder, working_on
from runrecord.secrets import redact
from runrecord.text import printable, shown

# Variables of the original that the rebuilt run gets too, unless the person sets them otherwise.
# Others can name files and devices of the other machine.
_PORTABLE = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "PYTHONHASHSEED",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
_NOT_INHERITED = ("DVC_", "GENERATIVE_", "GIT_", "MLFLOW_", "RUNRECORD_")


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


def rebuild(root: Path, original: Record, folder: Path, own_packages: bool) -> Record:
    """Run a stage as it was run, in `folder`; the record of the new run, which lies there too.

    Nothing of it reaches the tracking store, and neither DVC's run cache nor a checkpoint is used.
    Of a stage of several commands, that of the same program is taken.

    Args:
        root: the main repository.
        original: the run's record.
        folder: an empty one, for the clone.
        own_packages: also make a virtual environment from the lock file of the run's commit.

    Raises:
        CannotRebuild: the commit, the change or the data cannot be had, or the stage fails.
    """
    start = original.start
    checkout = _check_out(root, start, original.patch(), folder / "repository")
    search = Path(sys.executable).parent
    if own_packages:
        search = _install(checkout, folder / "environment")
    environment = _environment(start, checkout, search)
    try:
        stages = stages_of(checkout)
    except UserError as error:
        raise CannotRebuild(str(error).rstrip(".")) from None
    if start.stage not in stages:
        raise CannotRebuild(f"its dvc.yaml has no stage '{start.stage}'")
    _restore_deps(root, checkout, start.stage, start.deps, stages, environment)
    _run_stage(stages[start.stage], checkout, environment, start.tags.get("dvc.shell"))
    found = [Record(files_in(path)) for path in run_dirs(checkout)]
    again = [record for record in found if record.start.stage == start.stage]
    again.sort(key=lambda record: (record.start.command != start.command, record.start.time))
    if not again:
        raise CannotRebuild(
            f"{start.stage} of that commit leaves no record where one is looked for"
        )
    return again[0]


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


def _check_out(root: Path, start: RunStarted, patch: bytes, clone: Path) -> Path:
    """The code of the run, in a clone; the folder in it that `root` is in its own repository."""
    commit = start.tags.get("git.commit", "")
    if refused := start.tags.get("git.error"):
        raise CannotRebuild(f"its code was not recorded: {refused}")
    if not COMMIT.fullmatch(commit):
        raise CannotRebuild("it was run outside Git, so that its code is not known")
    if (left_out := start.tags.get("git.patch", "")).startswith(LEFT_OUT):
        raise CannotRebuild(f"its uncommitted change was {left_out}")
    try:
        if commit_of(root, commit) is None:
            raise CannotRebuild(
                f"its commit {commit} is not in this clone; fetch it, if it is anywhere"
            )
        top = top_of(root)
        check_out(root, commit, patch, clone)
    except GitFailed as error:
        raise CannotRebuild(str(error)) from None
    return clone / root.resolve().relative_to(top.resolve())


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
    mine = {key: text for key, text in os.environ.items() if not key.startswith(_NOT_INHERITED)}
    its = {name: start.tags[f"env.{name}"] for name in _PORTABLE if f"env.{name}" in start.tags}
    return {
        **its,
        **mine,
        "PATH": _search(search),
        "DVC_ROOT": str(checkout),
        "RUNRECORD_SINKS": "off",
        "GENERATIVE_TRACKERS": "off",  # for commits of version 0.1
        "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",  # in the clone, for code that knows no `off`
    }


def _search(first: Path) -> str:
    return f"{first}{os.pathsep}{os.environ.get('PATH', '')}"


def _restore_deps(
    root: Path,
    checkout: Path,
    stage: str,
    digests: Mapping[str, str],
    stages: Mapping[str, Stage],
    environment: Mapping[str, str],
) -> None:
    """Bring what `stage` reads and other stages made: from where it is kept, else made again."""
    makers = {path: name for name, other in stages.items() for path in other.outs}
    for path in stages[stage].deps:
        if path not in makers or _is_there(checkout / path, digests.get(path)):
            continue
        if path in digests and restore_out(root, path, digests[path], checkout / path):
            continue
        maker = makers[path]
        print(shown(f"{path} is kept nowhere: running {maker}"), file=sys.stderr)
        _restore_deps(root, checkout, maker, digests, stages, environment)
        _run_stage(stages[maker], checkout, environment)


def _is_there(path: Path, digest: str | None) -> bool:
    return path.exists() and digest in (None, sha256_of(path))


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
