"""Where a trial runs: a clone that its worker process owns, and DVC in it."""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from runrecord.errors import UserError
from runrecord.provenance.environment import changes_numbers
from runrecord.provenance.git import git
from runrecord.run.process import end_program, stop_with_parent
from runrecord.safety.text import clause
from runrecord.store.locks import held
from runrecord.store.runs import is_running, working_on
from runrecord.sweep.study import Trial

PLACE = "RUNRECORD_SWEEP_DIR"
"""The variable that says where a machine which does not see the main repository works."""
PROOF = "proof"
"""The file by which a worker knows the study's folder: that it sees the same disk."""


@dataclass(frozen=True)
class Task:
    """All that a worker is told of a trial."""

    root: str
    """Of the main repository."""
    folder: str
    """Of the study, there."""
    proof: str
    below: str
    """Where the DVC repository is in its Git repository."""
    cache: str
    """DVC's, of the main repository."""
    remotes: Mapping[str, str]
    """The address of each of DVC's remotes."""
    has_remote: bool
    """Is one of them the default?"""
    person: tuple[str, str]
    """Whose experiments they are: name and e-mail, as Git has them in the main repository."""
    commit: str
    patch: bytes
    locks: Mapping[str, bytes]
    """DVC's lock files as they are in the main repository, where they are not the commit's."""
    experiment: str
    trial: Trial
    targets: tuple[str, ...]
    """The stages that the metric is made by."""
    file: str
    metric: str
    environment: Mapping[str, str]
    """Variables that it has wherever it runs."""


def is_home(task: Task) -> bool:
    """Does this machine see the main repository's disk?"""
    with suppress(OSError):
        return (Path(task.folder) / PROOF).read_text() == task.proof
    return False


def own_folder() -> Path:
    """Where a machine works that does not see the main repository's disk."""
    given = os.environ.get(PLACE)
    folder = Path(given or Path(tempfile.gettempdir()) / f"runrecord-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: is somebody else's; name another folder in {PLACE}")
    for study in folder.glob("*/"):
        workers = [*study.glob("workers/*/")]
        if workers and not any(map(is_running, workers)):
            shutil.rmtree(study, ignore_errors=True)  # of a study that is over
    return folder


@cache
def workplace(base: Path) -> Path:
    """The folder of this process, for its clone; those of processes that are gone go."""
    workers = base / "workers"
    workers.mkdir(parents=True, exist_ok=True, mode=0o700)
    with held(base / "workers.lock"):
        for left in workers.glob("*/"):
            if not is_running(left):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{socket.gethostname()}-", dir=workers))
        stack = ExitStack()
        stack.enter_context(working_on(folder))
    atexit.register(stack.close)
    return folder


def received(base: Path, code: bytes) -> Path:
    """The repository that a bundle holds, kept for all workers of this machine."""
    kept = base / "code"
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    with held(base / "code.lock"):
        if not kept.exists():
            bundle, new = base / "code.bundle", base / "code.new"
            shutil.rmtree(new, ignore_errors=True)
            bundle.write_bytes(code)
            git(base, "clone", "--quiet", "--bare", str(bundle), str(new))
            new.rename(kept)
            bundle.unlink()
    return kept


def environment_of(task: Task) -> dict[str, str]:
    """Variables of a stage: those that change numbers are the driver's, whatever Ray makes them."""
    mine = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("DVC_", "GIT_", "RAY_")) and not changes_numbers(name)
    }
    programs = f"{Path(sys.executable).parent}{os.pathsep}{mine.get('PATH', '')}"
    return {**mine, **task.environment, "PATH": programs}


class Dvc:
    """DVC's program, in a clone."""

    def __init__(self, checkout: Path, environment: Mapping[str, str], log: Path) -> None:
        self._checkout, self._environment, self._log = checkout, environment, log

    @contextmanager
    def started(self, *command: str) -> "Iterator[subprocess.Popen[bytes]]":
        """A command of it, which ends with this process, and when it is no longer waited for."""
        with (
            self._log.open("wb") as log,
            subprocess.Popen(
                [sys.executable, "-m", "dvc", *command],
                cwd=self._checkout,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=stop_with_parent,  # Ray ends its workers, and not what they began
            ) as process,
        ):
            try:
                yield process
            finally:
                end_program(process, partial(os.killpg, process.pid))

    def run(self, *command: str) -> None:
        """A command of it, to its end.

        Raises:
            UserError: it fails.
        """
        with self.started(*command) as process:
            process.wait()
        if process.returncode:
            raise UserError(f"'dvc {command[0]}' fails ({self.said()})")

    def said(self) -> str:
        """What it said last."""
        lines = self._log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.casefold().startswith("error: ")]
        return clause((errors or [line for line in lines if line.strip()] or [""])[-1])
