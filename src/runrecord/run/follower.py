"""The run's side of the follower: the process that shows a record to people while it grows."""

import os
import selectors
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from runrecord.safety.text import say

FOLLOWER = "runrecord.trackers.follow"
"""The module that it runs."""
PACKAGES = ("tensorboardX", "mlflow")
"""Without either there is nothing to show a run in."""
_QUIET = 2.0  # seconds of waiting that need no word
_PART = 0.5  # seconds of waiting at once: a signal that comes just before is seen after it
_NOT_SHOWN = (
    "warning: the run is not shown whole yet: {why}; it is recorded, and 'runrecord sync "
    "--tensorboard' shows the rest later."
)


class Follower:
    """A process that plays the record in `folder` into MLflow and TensorBoard as it grows.

    It only reads the record: nothing that a tracker does can change the run, its process, its
    streams or its libraries. Its sentences come through a pipe and are printed by the run.
    """

    def __init__(self, folder: Path, past: int) -> None:
        """Start it, at a low priority; out of reach of the terminal's signals."""
        self._stopped = False
        self._pipe = b""
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", FOLLOWER),  # no file of the current folder is run
                    *(str(folder), str(os.getpid()), str(past)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            say(_NOT_SHOWN.format(why=f"{sys.executable} cannot be started ({error.strerror})"))
        else:
            assert self._process.stdout is not None
            os.set_blocking(self._process.stdout.fileno(), False)

    def pass_on(self) -> None:
        """Print what it has said since."""
        if self._process is None or self._process.stdout is None or self._process.stdout.closed:
            return
        with suppress(OSError):
            self._pipe += self._process.stdout.read() or b""
        *lines, self._pipe = self._pipe.split(b"\n")
        for line in lines:
            say(line.decode(errors="replace"))

    def finish(self, patience: float) -> None:
        """Wait until all of the record is shown, at most `patience` seconds; then end it."""
        if self._process is None:
            return
        began, told = time.monotonic(), False
        while self._process.poll() is None and not self._stopped:
            waited = time.monotonic() - began
            if waited >= patience:
                break
            if waited >= _QUIET and not told:
                told = True
                say(f"waiting for the run to be shown, at most {patience:.0f} s; Ctrl-C ends that")
            self._wait(min(_PART, patience - waited))
            self.pass_on()
        if self._process.poll() is None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # a disk that hangs holds it, and only it
                self._process.wait(_QUIET)
            self.pass_on()
            why = "not waited for" if self._stopped else "it took too long"
            say(_NOT_SHOWN.format(why=why))
        else:
            self.pass_on()
            if self._process.returncode:
                why = f"its process ended with status {self._process.returncode}"
                say(_NOT_SHOWN.format(why=why))
        assert self._process.stdout is not None
        self._process.stdout.close()

    def stop_waiting(self) -> None:
        """End the waiting in `finish`, also one that has not begun. For signal handlers."""
        self._stopped = True

    def _wait(self, seconds: float) -> None:
        """Until it says something, or ends."""
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            selector.select(seconds)


def follow(folder: Path, past: int) -> Follower | None:
    """Start following the record in `folder`, `past` events of which are an earlier attempt's.

    There is none if `RUNRECORD_SINKS=off`, if nothing is installed that could show it, or without
    a folder, as on a disk that is full: then `sync` shows it later.
    """
    if os.environ.get("RUNRECORD_SINKS") == "off" or not any(map(_is_there, PACKAGES)):
        return None
    return Follower(folder, past) if folder.is_dir() else None


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # a script has put something of its own in its place
        return False
