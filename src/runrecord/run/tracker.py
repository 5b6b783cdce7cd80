"""Writes a run's events to its record, from where a process of its own shows them."""

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path

from runrecord.errors import UserError
from runrecord.record.events import ANY_FILE, Contents, Event, File, RunEnded
from runrecord.record.writer import RecordWriter, file_for
from runrecord.run.process import UNTOLD
from runrecord.safety.text import printable, say

FOLLOWER = "runrecord.trackers.follow"  # the module that it runs
_PACKAGES = ("tensorboardX", "mlflow")  # without either there is nothing to show a run in
_LOG = ".follow.log"  # the file in a run's folder with what its follower said
_QUIET = 2.0  # seconds of waiting that need no word
_PART = 0.5  # seconds of waiting at once: a signal that comes just before is seen after it
_NOT_SHOWN = (
    "warning: the run is not shown whole yet: {why}; it is recorded, and 'runrecord sync "
    "--tensorboard' shows the rest later."
)


class Tracker:
    """Writes events to a record, each of which is safe on the disk when its call returns."""

    def __init__(self, writer: RecordWriter | None, past: int = 0) -> None:
        """Track a run, of which `past` events are in the record already.

        Without a writer, nothing is kept: rank 0 of the same job logs the same.
        """
        self._writer = writer
        self.records = writer is not None
        self._writer_failed = False
        self._turn = threading.Lock()
        """Of one event: those of the machine come from a thread of their own."""
        self._process = os.getpid()
        self._ended = False
        self._past = past
        self.length = past  # how many events there were
        self._follower: Follower | None = None

    def follow(self) -> None:
        """Show the record while it grows, unless `RUNRECORD_SINKS=off` or nothing could show it.

        Nor without its folder, as on a disk that is full: then `sync` shows it later.
        """
        off = os.environ.get("RUNRECORD_SINKS") == "off"
        if off or not any(map(PathFinder.find_spec, _PACKAGES)):
            return
        if not self._writer or not self._writer.folder.is_dir():
            return
        try:
            self._follower = Follower(self._writer.folder, self._past)
        except OSError as error:
            say(_NOT_SHOWN.format(why=f"{error.filename}: {error.strerror}"))

    def log(self, event: Event, contents: Contents | None = None) -> None:
        """Write an event down; it is shown soon after.

        Raises:
            UserError: it could not be read again, or the run has ended; nothing of it is kept.
        """
        if not self._writer:
            return
        with self._turn:
            self._check_open(event)  # who samples the machine passes over the error
            self._ended = self._ended or isinstance(event, RunEnded)
            try:
                self._writer.write(event, contents)
            except ValueError as error:
                raise UserError(f"cannot record this: {printable(str(error))}.") from None
            except OSError as error:
                if not self._writer_failed:
                    say(
                        f"warning: the run's record cannot be written ({error.filename}: "
                        f"{error.strerror}); make room: what is missing is written with the next "
                        "epoch."
                    )
                self._writer_failed = True
            self.length += 1
            if self._follower:
                self._follower.pass_on()

    def take(self, more: bool) -> None:
        """Take more than the end of the run from now on, or take nothing else."""
        with self._turn:
            self._ended = not more

    def keep(
        self, folder: str, title: str, content: bytes | Path, suffix: str
    ) -> tuple[File, Contents]:
        """What content is called in the record, and where it is from now on, for `log`.

        Raises:
            UserError: the run has ended.
            OSError: a file cannot be read.
        """
        if not self._writer:
            return file_for(folder, title, ANY_FILE.sha256, suffix), {}
        self._check_open()
        return self._writer.keep(folder, title, content, suffix)

    def close(self, patience: float) -> None:
        """Wait until all is shown, at most `patience` seconds.

        What the record lacks by now, its end perhaps, is tried once more.
        """
        try:
            if self._writer:
                self._writer.write_pending()
        except OSError:
            patience = 0  # what is not on record is not shown
        if self._follower:
            self._follower.finish(patience)

    def stop_waiting(self) -> None:
        """End the waiting in `close`, also one that has not begun. For signal handlers."""
        if self._follower:
            self._follower.stop_waiting()

    def _check_open(self, event: Event | None = None) -> None:
        if os.getpid() != self._process:
            raise UserError(
                "the run belongs to the process that this one was forked from: log there, or begin "
                "a run of its own here."
            )
        if self._ended and not isinstance(event, RunEnded):
            raise UserError(
                "the run has ended: nothing more can be recorded of it; log inside "
                "'with start_run()'."
            )


class Follower:
    """A process that plays the record in `folder` into MLflow and TensorBoard as it grows.

    It only reads the record: nothing that a tracker does can change the run, its process, its
    streams or its libraries. Its sentences go to a file, from which the run prints them.
    """

    def __init__(self, folder: Path, past: int) -> None:
        """Start it, out of reach of the terminal's signals."""
        self._stopped = False
        self._log = folder / _LOG
        with self._log.open("ab") as log:
            self._passed_on = log.tell()
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", FOLLOWER),  # no file of the current folder is run
                    *(str(folder), str(os.getpid()), str(past)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**UNTOLD, **os.environ},
            )

    def pass_on(self) -> None:
        """Print what it has said since."""
        with suppress(OSError), self._log.open("rb") as log:
            log.seek(self._passed_on)
            for line in log:
                say(line.decode(errors="replace").rstrip("\n"))
            self._passed_on = log.tell()

    def finish(self, patience: float) -> None:
        """Wait until all of the record is shown, at most `patience` seconds; then end it."""
        began, waited, told = time.monotonic(), 0.0, False
        while waited < patience and self._process.poll() is None and not self._stopped:
            if waited >= _QUIET and not told:
                told = True
                say(f"waiting for the run to be shown, at most {patience:.0f} s; Ctrl-C ends that")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(min(_PART, patience - waited))
            self.pass_on()
            waited = time.monotonic() - began
        if self._process.poll() is None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # a disk that hangs holds it, and only it
                self._process.wait(_QUIET)
            why = "not waited for" if self._stopped else "it took too long"
        else:
            status = self._process.returncode
            why = f"its process ended with status {status}" if status else ""
        self.pass_on()
        if why:
            say(_NOT_SHOWN.format(why=why))

    def stop_waiting(self) -> None:
        """End the waiting in `finish`, also one that has not begun. For signal handlers."""
        self._stopped = True
