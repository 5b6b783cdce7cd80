"""Records made by hand, played into trackers, and seen being opened."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import runrecord
from runrecord.record.events import RunEnded, RunStarted, made
from runrecord.record.reader import Record, files_in
from runrecord.record.writer import RecordWriter
from runrecord.resume.checkpoints import Checkpoints
from runrecord.run.tracker import Tracker
from runrecord.store.runs import run_dirs
from runrecord.trackers.base import Sink


def new_run(folder: Path, **start: Any) -> runrecord.Run:
    """A run whose record is written to `folder`, by this process and for no sink."""
    given: dict[str, Any] = {
        "id": "run-1",
        "stage": "train",
        "time": 1,
        "host": "host",
        "params": {},
        "tags": {},
    }
    started = made(RunStarted, **(given | start))
    tracker = Tracker(RecordWriter(folder))
    tracker.log(started)
    return runrecord.Run(started, tracker, Checkpoints(folder.parent, {}))


def end_run(folder: Path, **end: Any) -> Record:
    """End the run whose record is in `folder`; that record."""
    given: dict[str, Any] = {"time": 9_000, "status": "FINISHED"}
    RecordWriter(folder, Record(files_in(folder)).size).write(RunEnded(**(given | end)))
    return Record(files_in(folder))


def recorded(repository: Path) -> list[Record]:
    """The records of the runs in a repository's store, the oldest first."""
    found = [Record(files_in(folder)) for folder in run_dirs(repository)]
    return sorted(found, key=lambda record: record.start.time)


def ending(record: Record) -> str:
    """How its run ended."""
    return record.end.status if record.end else "RUNNING"


def status_of(folder: Path) -> str:
    """How the run ended whose record is in `folder`."""
    return ending(Record(files_in(folder)))


def play(root: Path, record: Record, *sinks: type[Sink], events: int | None = None) -> None:
    """Play the first events of a record into sinks, or all."""
    for kind in sinks:
        sink = kind(root)
        for event in list(record.events())[:events]:
            sink.handle(event, record.contents)
        sink.close()


_audits: list[tuple[str, list[tuple[Any, ...]]]] = []


@cache
def _audit() -> None:
    """Python takes no such hook back: it is added once."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        for one, told in _audits:
            if one == event:
                told.append(args)

    sys.addaudithook(hook)


@contextmanager
def audited(event: str) -> Iterator[list[tuple[Any, ...]]]:
    """What Python tells of an event, `open` for instance, while this goes on."""
    _audit()
    told: list[tuple[Any, ...]] = []
    _audits.append((event, told))
    try:
        yield told
    finally:
        _audits.remove((event, told))


def records_among(opened: Sequence[tuple[Any, ...]]) -> list[str]:
    """The runs whose records were opened, by their folders' names."""
    starts = (Path(os.fsdecode(args[0])) for args in opened if isinstance(args[0], str | bytes))
    return sorted(path.parent.name for path in starts if path.name == "run.json")
