"""Writes a run's events to its record, from where a follower shows them."""

import os
import threading
from pathlib import Path

from runrecord.errors import UserError
from runrecord.record.events import Contents, Event, File, RunEnded
from runrecord.record.recordable import ANY_FILE
from runrecord.record.redacted import without_secrets
from runrecord.record.schema import as_json
from runrecord.record.writer import RecordWriter, file_for
from runrecord.run.follower import Follower, follow
from runrecord.safety.text import printable, say


class Tracker:
    """Writes events to a record, each of which is safe on the disk when its call returns."""

    def __init__(self, writer: RecordWriter, past: int = 0) -> None:
        """Track a run, of which `past` events are in the record already."""
        self._writer = writer
        self._writer_failed = False
        self._turn = threading.Lock()
        """Of one event: those of the machine come from a thread of their own."""
        self._process = os.getpid()
        self._ended = False
        self._past = past
        self.length = past
        """How many events there were."""
        self._follower: Follower | None = None

    def follow(self) -> None:
        """Show the record while it grows, where there is something to show it in."""
        self._follower = follow(self._writer.folder, self._past)

    def log(self, event: Event, contents: Contents | None = None) -> None:
        """Write an event down; it is shown soon after.

        Raises:
            UserError: it could not be read again, or the run has ended; nothing of it is kept.
        """
        with self._turn:
            self._check_open()  # who samples the machine passes over the error
            self._ended = isinstance(event, RunEnded)
            self._write(event, contents or {})
            if self._follower:
                self._follower.pass_on()

    def keep(
        self, folder: str, title: str, content: bytes | Path, suffix: str
    ) -> tuple[File, Contents]:
        """What content is called in the record, and where it is from now on, for `log`.

        Raises:
            UserError: the run has ended.
            OSError: a file cannot be read.
        """
        self._check_open()
        return self._writer.keep(folder, title, content, suffix)

    def close(self, patience: float) -> None:
        """Wait until all is shown, at most `patience` seconds.

        What the record lacks by now, its end perhaps, is tried once more.
        """
        try:
            self._writer.write_pending()
        except OSError:
            patience = 0  # what is not on record is not shown
        if self._follower:
            self._follower.finish(patience)

    def stop_waiting(self) -> None:
        """End the waiting in `close`, also one that has not begun. For signal handlers."""
        if self._follower:
            self._follower.stop_waiting()

    def _check_open(self) -> None:
        if os.getpid() != self._process:
            raise UserError(
                "the run belongs to the process that this one was forked from: log there, or begin "
                "a run of its own here."
            )
        if self._ended:
            raise UserError(
                "the run has ended: nothing more can be recorded of it; log inside "
                "'with start_run()'."
            )

    def _write(self, event: Event, contents: Contents) -> None:
        try:
            self._writer.write(without_secrets(event), contents)
        except ValueError as error:
            raise UserError(f"cannot record this: {printable(str(error))}.") from None
        except OSError as error:
            if not self._writer_failed:
                say(
                    f"warning: the run's record cannot be written ({error.filename}: "
                    f"{error.strerror}); make room: what is missing is written with the next epoch."
                )
            self._writer_failed = True
        self.length += 1


class NoTracker:
    """Records nothing of a run, which another process does; what could not be is refused."""

    length = 0

    def keep(
        self, folder: str, title: str, content: bytes | Path, suffix: str
    ) -> tuple[File, Contents]:
        """A name for content that can be read."""
        if isinstance(content, Path):
            with content.open("rb"):
                pass
        return file_for(folder, title, ANY_FILE.sha256, suffix), {}

    def log(self, event: Event, contents: Contents | None = None) -> None:  # noqa: ARG002
        """Refuse an event that could not be read again.

        Raises:
            UserError: it could not.
        """
        try:
            as_json(event)
        except ValueError as error:
            raise UserError(f"cannot record this: {printable(str(error))}.") from None
