"""The fan-out: events go to the record, then to every sink; none can hold up or end a run."""

import math
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from runrecord.errors import UserError
from runrecord.record.events import Contents, Event, File, RunEnded, RunStarted
from runrecord.record.reader import Record, files_in
from runrecord.record.recordable import ANY_FILE
from runrecord.record.schema import as_json
from runrecord.record.writer import RecordWriter, file_for
from runrecord.safety.secrets import without_secrets
from runrecord.safety.text import printable, shown
from runrecord.trackers.base import Sink

RETRY = 10.0  # seconds that a sink which failed is left alone
UNSAID = 2.0  # seconds of waiting for sinks that need no word
_PART = 0.5  # seconds of waiting at once: a signal that comes just before is seen after it
_FOR_THE_END = 1.5  # seconds kept for showing how the run ended


class Tracker:
    """Writes events to the record and hands them to sinks, each on a thread of its own."""

    def __init__(
        self, writer: RecordWriter, root: Path, sinks: Sequence[type[Sink]], past: int = 0
    ) -> None:
        """Track a run, of which `past` events are in the record already."""
        self._writer = writer
        self._writer_failed = False
        self._turn = threading.Lock()
        """Of one event: those of the machine come from a thread of their own."""
        self._ended = False
        self.length = past
        """How many events there were."""
        self._stopped = False
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Something each time that a thread is done, or the waiting for them is to end."""
        self._threads = [_SinkThread(sink, root, writer.folder, past, self._news) for sink in sinks]

    def log(self, event: Event, contents: Contents | None = None) -> None:
        """Write an event down and queue it for every sink; returns without waiting for a sink.

        Raises:
            UserError: it could not be read again, or the run has ended; nothing of it is kept.
        """
        with self._turn:
            self._check_open()  # who samples the machine passes over the error
            self._ended = isinstance(event, RunEnded)
            self._log(event, contents or {})

    def _check_open(self) -> None:
        if self._ended:
            raise UserError(
                "the run has ended: nothing more can be recorded of it; log inside "
                "'with start_run()'."
            )

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

    def _log(self, event: Event, contents: Contents) -> None:
        try:
            event = without_secrets(event)
            self._writer.write(event, contents)
        except ValueError as error:
            raise UserError(f"this cannot be recorded: {printable(str(error))}.") from None
        except OSError as error:
            if not self._writer_failed:
                _warn(
                    f"the run's record cannot be written ({error.filename}: {error.strerror}); "
                    "make room: what is missing is written with the next epoch."
                )
            self._writer_failed = True
        self.length += 1
        shown = {name: self._kept(name, content) for name, content in contents.items()}
        for thread in self._threads:
            thread.queue.put((event, shown))

    def _kept(self, name: str, content: bytes | Path) -> bytes | Path:
        """What an event's file holds, as the record has it: a script may write its own again."""
        file = self._writer.folder / name
        return file if file.exists() else content

    def close(self, patience: float) -> None:
        """Wait until every sink has shown everything, at most `patience` seconds.

        Shortly before, a sink that is behind goes on to the run's end: its status is shown in time.
        What the record lacks by now, its end perhaps, is tried once more.
        """
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.finish(deadline)
        behind = self._wait(min(deadline, time.monotonic() + UNSAID))
        if behind and not self._stopped and time.monotonic() < deadline:
            names = " and ".join(thread.name for thread in behind)
            print(
                f"waiting for {names} to show the run, at most {patience:.0f} s; Ctrl-C ends that"
            )
            behind = self._wait(deadline)
        with suppress(OSError):
            self._writer.write_pending()
        for thread in behind:
            thread.warn("it did not answer in time" if not self._stopped else "not waited for")

    def stop_waiting(self) -> None:
        """End the waiting in `close`, also one that has not begun. For signal handlers."""
        self._stopped = True
        self._news.put(None)

    def _wait(self, deadline: float) -> "list[_SinkThread]":
        """The threads that are not done when the deadline has passed, or the waiting was ended."""
        while (
            behind := [thread for thread in self._threads if not thread.done]
        ) and not self._stopped:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            with suppress(queue.Empty):
                self._news.get(timeout=min(left, _PART))
        return behind


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
            raise UserError(f"this cannot be recorded: {printable(str(error))}.") from None


class _SinkThread:
    """One sink's thread. After a failure the sink is made anew and played the record so far."""

    def __init__(
        self,
        sink_class: type[Sink],
        root: Path,
        record: Path,
        past: int,
        news: "queue.SimpleQueue[None]",
    ) -> None:
        self.queue: queue.SimpleQueue[tuple[Event, Contents] | None] = queue.SimpleQueue()
        self.name = sink_class.name
        self.done = False
        self._news = news
        self._sink_class = sink_class
        self._root = root
        self._record = record
        self._first = past
        self._sink: Sink | None = None
        self._warned = False
        self._retry_at = 0.0
        self._skip_from = math.inf
        self._thread = threading.Thread(target=self._run, name=sink_class.name, daemon=True)
        self._thread.start()

    def finish(self, deadline: float) -> None:
        self._skip_from = deadline - _FOR_THE_END
        self.queue.put(None)

    def _run(self) -> None:
        try:
            self._show_all()
        finally:
            self.done = True
            self._news.put(None)

    def _show_all(self) -> None:
        news: Iterator[tuple[Event, Contents]] = iter(self.queue.get, None)
        for number, (event, contents) in enumerate(news, start=self._first):
            moment = time.monotonic()
            due = moment < self._skip_from and (self._sink or moment >= self._retry_at)
            if due or isinstance(event, RunEnded):
                self._show(number, event, contents)
        if self._sink is not None:
            try:
                self._sink.close()
            except Exception as error:
                self._warn_of(error)
            else:
                self._warn_of_owed(self._sink)

    def _show(self, number: int, event: Event, contents: Contents) -> None:
        try:
            if self._sink is None:
                sink = self._sink_class(self._root)
                self._show_past(sink, number)
                self._sink = sink
                if self._warned:
                    print(f"{sink.name} answers again and gets all that it missed.")
            self._sink.handle(event, contents)
            if self.queue.empty():
                self._sink.flush()
                while self.queue.empty() and self._sink.upload():
                    pass
            self._warn_of_owed(self._sink)
        except Exception as error:
            self._sink = None
            self._retry_at = time.monotonic() + RETRY
            self._warn_of(error)

    def _show_past(self, sink: Sink, count: int) -> None:
        """Show the first `count` events of the run."""
        if count:
            record = Record(files_in(self._record))
            for event in islice(record.events(files=False), count):
                due = isinstance(event, RunStarted) or time.monotonic() < self._skip_from
                if due and (usable := record.usable(event)):
                    sink.handle(usable, record.contents)
            sink.owed = record.damage()

    def _warn_of(self, error: Exception) -> None:
        self.warn(self._sink_class.why(error, self._root))

    def _warn_of_owed(self, sink: Sink) -> None:
        if sink.owed:
            self.warn(f"some pictures, models or files are not there ({sink.owed})")

    def warn(self, why: str) -> None:
        if not self._warned:
            _warn(
                f"{self._sink_class.name} is left behind: {why}; the run goes on and is "
                f"recorded, and {self._sink_class.remedy}."
            )
        self._warned = True


def _warn(text: str) -> None:
    print(f"warning: {shown(text)}", file=sys.stderr)
