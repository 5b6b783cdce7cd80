"""The fan-out: events go to the journal, then to every sink; none can hold up or end a run."""

import math
import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

from generative.record import Journal, Record, files_in
from generative.redact import reason, redact
from generative.tracking.events import Event, RunEnded, RunStarted

RETRY = 10.0  # seconds that a sink which failed is left alone
UNSAID = 2.0  # seconds of waiting for sinks that need no word
LAST_CALL = 1.5  # seconds kept for showing how the run ended


class Sink(ABC):
    """Somewhere that events are shown. Made and used on one thread.

    A run's first event is its start. Played the same run again, whole or from a point at which it
    was cut off, a sink shows nothing twice.
    """

    name: ClassVar[str]
    remedy: ClassVar[str]
    """What a person can do about a run that the sink could not show."""

    @abstractmethod
    def __init__(self, root: Path) -> None:
        """Open it, for the main repository at `root`; may be slow and may raise."""

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Show one event; may be slow and may raise."""

    @abstractmethod
    def close(self) -> None:
        """Write out what is held back."""


class Tracker:
    """Writes events to the journal and hands them to sinks, each on a thread of its own."""

    def __init__(
        self, journal: Journal, root: Path, sinks: Sequence[type[Sink]], past: int = 0
    ) -> None:
        """Track a run, of which `past` events are in the journal already."""
        self._journal = journal
        self._journal_failed = False
        self._stopped = False
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Something each time that a lane is done, or the waiting for them is to end."""
        self._lanes = [_Lane(sink, root, journal.folder, past, self._news) for sink in sinks]

    @property
    def run_id(self) -> str:
        """The id of the run, and of its record."""
        return self._journal.folder.name

    def last_epoch(self) -> int:
        """The last epoch that is in the run's record."""
        return Record(files_in(self._journal.folder)).last_epoch()

    def log(self, event: Event) -> None:
        """Write an event down and queue it for every sink; returns without waiting for a sink."""
        try:
            self._journal.write(event)
        except OSError as error:
            if not self._journal_failed:
                _warn(
                    f"the run's record cannot be written ({error.filename}: {error.strerror}); "
                    "make room: what is missing is written with the next epoch."
                )
            self._journal_failed = True
        for lane in self._lanes:
            lane.queue.put(event)

    def close(self, patience: float) -> None:
        """Wait until every sink has shown everything, at most `patience` seconds.

        Shortly before, a sink that is behind goes on to the run's end: its status is shown in time.
        """
        deadline = time.monotonic() + patience
        for lane in self._lanes:
            lane.finish(deadline)
        behind = self._wait(min(deadline, time.monotonic() + UNSAID))
        if behind and time.monotonic() < deadline:
            names = " and ".join(lane.name for lane in behind)
            print(
                f"waiting for {names} to show the run, at most {patience:.0f} s; Ctrl-C ends that"
            )
            behind = self._wait(deadline)
        for lane in behind:
            lane.warn("it did not answer in time" if not self._stopped else "not waited for")

    def stop_waiting(self) -> None:
        """End the waiting in `close`, also one that has not begun. For signal handlers."""
        self._stopped = True
        self._news.put(None)

    def _wait(self, deadline: float) -> "list[_Lane]":
        """The lanes that are not done when the deadline has passed, or the waiting was ended."""
        while (behind := [lane for lane in self._lanes if not lane.done]) and not self._stopped:
            try:
                self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
        return behind


class _Lane:
    """One sink's thread. After a failure the sink is made anew and played the record so far."""

    def __init__(
        self,
        sink_class: type[Sink],
        root: Path,
        record: Path,
        past: int,
        news: "queue.SimpleQueue[None]",
    ) -> None:
        self.queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
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
        self._skip_from = deadline - LAST_CALL
        self.queue.put(None)

    def _run(self) -> None:
        try:
            self._show_all()
        finally:
            self.done = True
            self._news.put(None)

    def _show_all(self) -> None:
        events: Iterator[Event] = iter(self.queue.get, None)
        for number, event in enumerate(events, start=self._first):
            moment = time.monotonic()
            due = moment < self._skip_from and (self._sink or moment >= self._retry_at)
            if due or isinstance(event, RunEnded):
                self._show(number, event)
        if self._sink is not None:
            try:
                self._sink.close()
            except Exception as error:
                self.warn(reason(error))

    def _show(self, number: int, event: Event) -> None:
        try:
            if self._sink is None:
                sink = self._sink_class(self._root)
                for past in self._past(number):
                    if isinstance(past, RunStarted) or time.monotonic() < self._skip_from:
                        sink.handle(past)
                self._sink = sink
                if self._warned:
                    print(f"{sink.name} answers again and gets all that it missed.")
            self._sink.handle(event)
        except Exception as error:
            self._sink = None
            self._retry_at = time.monotonic() + RETRY
            self.warn(reason(error))

    def _past(self, count: int) -> Iterator[Event]:
        """The first `count` events of the run."""
        return islice(Record(files_in(self._record)).events(), count) if count else iter(())

    def warn(self, why: str) -> None:
        if not self._warned:
            _warn(
                f"{self._sink_class.name} is left behind: {why}; the run goes on and is "
                f"recorded, and {self._sink_class.remedy}."
            )
        self._warned = True


def _warn(text: str) -> None:
    print(f"warning: {redact(text)}", file=sys.stderr)
