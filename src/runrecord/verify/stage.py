"""Running a stage's commands once more, as DVC ran them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from runrecord.dvc.cache import remove
from runrecord.dvc.stages import Stage
from runrecord.run.process import end_program
from runrecord.safety.secrets import redact
from runrecord.safety.text import printable, shown

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


def run_stage(
    stage: Stage, checkout: Path, environment: Mapping[str, str], shell: str | None = None
) -> None:
    """Run the commands of a stage, each after the one before it ended well, by the same shell.

    As DVC does, it removes the stage's outs first, less those that persist.
    """
    if not stage.commands:
        raise CannotRebuild("its dvc.yaml gives the stage no command of its own")
    name = Path(shell or "sh").name
    program = shutil.which(name)
    if name not in _SHELLS or program is None:
        raise CannotRebuild(f"it was run by the shell '{printable(name)}', which is not here")
    for out in {*stage.outs} - {*stage.persistent}:
        remove(checkout / out)
    for command in stage.commands:
        words = [program, *_SHELLS[name], "-c", command]
        named = {**environment, "DVC_STAGE": stage.name, "SHELL": program}
        run_command(stage.name, words, checkout / stage.folder, named)


def run_command(
    name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> None:
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
