"""The fan-out: each event goes to every sink, and no sink can hold up or end the run."""

import queue
import re
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from generative.tracking.events import Event, RunEnded


class Sink(ABC):
    """Somewhere that events are shown. Made and used on one thread."""

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Show one event; may be slow and may raise."""

    @abstractmethod
    def close(self) -> None:
        """Write out what is held back."""


T = TypeVar("T")
SinkFactory = Callable[[], Sink]


class Tracker:
    """Hands events to sinks, each on a thread of its own."""

    def __init__(self, sinks: dict[str, SinkFactory]) -> None:
        self._lanes = [_Lane(name, factory) for name, factory in sinks.items()]

    def log(self, event: Event) -> None:
        """Queue an event for every sink; returns at once."""
        for lane in self._lanes:
            lane.queue.put(event)

    def close(self, patience: float) -> None:
        """Wait until every sink has shown everything, at most `patience` seconds."""
        for lane in self._lanes:
            lane.queue.put(None)
        deadline = time.monotonic() + patience
        for lane in self._lanes:
            lane.join(deadline)


class _Lane:
    def __init__(self, name: str, factory: SinkFactory) -> None:
        self.queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._name = name
        self._failed = False
        self._thread = threading.Thread(target=self._run, args=(factory,), name=name, daemon=True)
        self._thread.start()

    def join(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            _warn(self._name, "it did not answer in time")

    def _run(self, factory: SinkFactory) -> None:
        sink = self._attempt(factory)
        if sink is None:
            return
        for event in self._events():
            # After a failure, still try to show how the run ended.
            if not self._failed or isinstance(event, RunEnded):
                self._attempt(partial(sink.handle, event))
        self._attempt(sink.close)

    def _attempt(self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except Exception as error:
            if not self._failed:
                _warn(self._name, (str(error).strip() or repr(error)).splitlines()[0])
            self._failed = True
            return None

    def _events(self) -> Iterable[Event]:
        return iter(self.queue.get, None)


def without_secrets(text: str) -> str:
    """`text` less the user and password of any address in it."""
    return re.sub(r"//\S+@", "//***@", text)


def _warn(sink: str, reason: str) -> None:
    reason = without_secrets(reason)
    print(
        f"warning: {sink} is left behind for this run: {reason}; the run itself goes on.",
        file=sys.stderr,
    )
