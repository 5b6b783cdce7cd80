"""Reads records as untrusted input, and folds one into a view that pages and audits show."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from runrecord.files import sha256
from runrecord.record.events import (
    EVENTS,
    FORMAT,
    MOST,
    START,
    Event,
    File,
    Files,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Observed,
    RecordRefused,
    RunEnded,
    RunStarted,
    fields_with_files,
    read_line,
    read_start,
    without_files,
)
from runrecord.record.recordable import is_png, unpack
from runrecord.safety.text import printable

EVALUATION = "Eval/"
"""Before the names of the metrics that an evaluation puts on the runs that trained its models."""

Series = dict[int, tuple[float, list[float]]]
"""A metric's value and its values within the step, by step; an evaluation's metric is at step 0.

Of an evaluation's curves, the step is the point's x.
"""


class Record:
    """A record that was written, opened to be read."""

    def __init__(self, files: Files) -> None:
        """Read how the run began, and the last that happened.

        Raises:
            RecordRefused: this is not a record, is damaged, or comes from another version.
        """
        self.contents = files
        """Where the files lie that events name; `events` has checked those that it left in."""
        self.damaged: dict[str, str] = {}
        """Why a file that an event names is not used, as a clause, by its name; `events` adds."""
        self.start = self._read_start()  # how the run began
        self.size = 0  # bytes of whole lines
        self.length = 1  # number of events, the start among them
        self.cut_off = False  # the last line is not whole: the machine stopped while it was written
        last = b""
        for line in self._lines():
            self.cut_off = not line.endswith(b"\n")
            if not self.cut_off:
                last = line
                self.size += len(line)
                self.length += 1
        event = self._event(self.length - 1, last) if last else None
        self.end = event if isinstance(event, RunEnded) else None
        self.last_sign_of_life = event.time if event else self.start.time
        """When the last event was, in milliseconds since 1970."""

    def events(self, files: bool = True) -> Iterator[Event]:
        """What happened, in order, from the start on.

        Args:
            files: check the files that events name: an event comes without its bad ones, which
                are noted in `damaged`, and not at all if it is about nothing but one. Otherwise
                no file is looked at, and events are as they were written.

        Raises:
            RecordRefused: a line is damaged or not to be trusted.
        """
        yield self.start
        for number, line in enumerate(self._lines(), start=1):
            if not line.endswith(b"\n"):
                return
            event = self._event(number, line)
            usable = self.usable(event) if files else event
            if usable is not None:
                yield usable

    def usable(self, event: Event) -> Event | None:
        """An event without its bad files, which are noted in `damaged`; None if nothing is left."""
        named = fields_with_files(event)
        bad = {file.name: why for field, file in named if (why := self._why_bad(field, file))}
        self.damaged |= bad
        return without_files(event, bad) if bad else event

    def damage(self) -> str:
        """The files in `damaged` and why, as a clause; empty if there are none."""
        return "; ".join(f"{printable(name, 250)}: {why}" for name, why in self.damaged.items())

    def read(self, name: str) -> bytes:
        """The content of a file that an event named.

        Raises:
            RecordRefused: it is missing, cannot be read, or is more than fits into memory.
        """
        try:
            path = self.place(name)
            _fits(path)
            return path.read_bytes()
        except (ValueError, OSError) as error:
            raise _refused(name, _why(error)) from None

    def place(self, name: str) -> Path:
        """Where a file lies. Names are looked up, not joined to a path: none leads outside."""
        if name not in self.contents:
            raise ValueError("the record has no such file")
        return self.contents[name]

    def patch(self) -> bytes:
        """What the code differed by from its commit; empty if it did not."""
        return self.read(self.start.patch.name) if self.start.patch else b""

    def _lines(self) -> Iterator[bytes]:
        if EVENTS not in self.contents:
            return
        try:
            with self.contents[EVENTS].open("rb") as file:
                while line := file.readline(MOST + 1):
                    if len(line) > MOST:
                        raise RecordRefused(f"{EVENTS}: a line has more than {MOST} bytes.")
                    yield line
        except OSError as error:
            raise _refused(EVENTS, _why(error)) from None

    def _event(self, number: int, line: bytes) -> Event:
        try:
            return read_line(line)
        except ValueError as error:
            raise RecordRefused(f"{EVENTS}, line {number}: {printable(str(error))}.") from None

    def _read_start(self) -> RunStarted:
        content = self.read(START)
        try:
            found = json.loads(content)["format"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise RecordRefused(
                f"{START} is not a run's: it is not JSON with a 'format'."
            ) from None
        if found != FORMAT:
            remedy = (
                "check out commit ce461c1, which does" if found == 1 else "update this checkout"
            )
            shown = printable(str(found), 250)
            raise RecordRefused(
                f"this version does not read format {shown}, only {FORMAT}; {remedy}."
            )
        try:
            start = read_start(content)
        except ValueError as error:
            raise RecordRefused(f"{START}: {printable(str(error))}.") from None
        if start.patch and (why := self._why_bad("patch", start.patch)):
            raise _refused(start.patch.name, why)
        return replace(start, tags={key: printable(value) for key, value in start.tags.items()})

    def _why_bad(self, field: str, file: File) -> str:
        """Why a file that an event names in that field is not used, as a clause; or nothing."""
        try:
            path = self.place(file.name)
            if field in _READ_WHOLE:
                _fits(path)
            if sha256(path) != file.sha256:
                return "its SHA-256 is another"
            if field == "images" and not is_png(path):
                return "it is not a PNG file, damaged, or too large"
            if field == "embedding":
                unpack(path.read_bytes())
        except (ValueError, OSError) as error:
            return _why(error)
        return ""


_READ_WHOLE = ("patch", "images", "texts", "embedding", "output")
"""Fields whose files have to fit into memory; others may be of any size."""


class Growing:
    """A record that another process writes, read from where it was left."""

    def __init__(self, folder: Path, past: int = 0) -> None:
        """Read from its start; an end among the first `past` events is not its last."""
        self._folder, self._past = folder, past
        self._size = self.count = 0
        self.ended = False
        """The run's end has been read."""

    def new_events(self) -> Iterator[Event]:
        """The events since; a line that is not whole yet is left for later."""
        if not self.count:
            start = self._folder / START
            if not start.exists():
                return
            self.count = 1
            yield read_start(start.read_bytes())
        with suppress(FileNotFoundError), (self._folder / EVENTS).open("rb") as file:
            file.seek(self._size)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                event = read_line(line)
                self._size += len(line)
                self.count += 1
                self.ended = isinstance(event, RunEnded) and self.count > self._past
                yield event

    def has_ended(self) -> bool:
        """Is the run's end on record?"""
        for _ in self.new_events():
            pass
        return self.ended


def _fits(path: Path) -> None:
    if (size := path.stat().st_size) > MOST:
        raise ValueError(f"it has {size} bytes, more than {MOST}")


def _refused(name: str, why: str) -> RecordRefused:
    return RecordRefused(f"'{printable(name, 250)}': {why}.")


def _why(error: ValueError | OSError) -> str:
    return f"it cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def files_in(folder: Path) -> Files:
    """The files of the record in `folder`; links are followed where DVC's cache made them."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and _stays(path, folder)
    }


def record_in(folder: Path) -> Record | None:
    """The record in `folder`, opened; None if it is gone or cannot be used."""
    try:
        return Record(files_in(folder))
    except (RecordRefused, OSError):
        return None


def _stays(path: Path, folder: Path) -> bool:
    """Does `path` stay in `folder`? DVC's links lead to files named after their content's MD5."""
    target = path.resolve()
    if target.is_relative_to(folder.resolve()):
        return True
    in_cache = re.fullmatch(r".*/files/md5/([0-9a-f]{2})/([0-9a-f]{30})", target.as_posix())
    if in_cache is None:
        return False
    with target.open("rb") as file:
        content = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False))
    return content.hexdigest() == "".join(in_cache.groups())


@dataclass
class RunView:
    """A run as its record tells of it, less files that are damaged."""

    record: Record
    series: dict[str, Series] = field(default_factory=dict)
    """By the metric's name; of an evaluated model `MODEL/METRIC`."""
    images: dict[tuple[str, int], File] = field(default_factory=dict)  # by title and step
    files: dict[str, File] = field(default_factory=dict)
    """Texts and artifacts, the last of each title."""
    tags: dict[str, str] = field(default_factory=dict)
    """Those that it began with, and those added later."""
    observed: dict[str, list[float]] = field(default_factory=dict)
    """What the machine did, in order, by name."""
    models: list[ModelSaved] = field(default_factory=list)
    evaluated: dict[str, ModelEvaluated] = field(default_factory=dict)  # by the model's name

    @property
    def start(self) -> RunStarted:
        """How it began."""
        return self.record.start

    @property
    def model(self) -> str | None:
        """The SHA-256 of the model it made, the last if there are several."""
        return self.models[-1].file.sha256 if self.models else None

    @property
    def status(self) -> str:
        """How it ended; RUNNING if its record does not say."""
        return self.record.end.status if self.record.end else "RUNNING"

    @property
    def seconds(self) -> float:
        """From its start to its last sign of life."""
        return (self.record.last_sign_of_life - self.start.time) / 1000

    def last_step(self) -> int:
        """The last step at which something was logged, 0 if nothing was."""
        return max((step for points in self.series.values() for step in points), default=0)

    def last_values(self) -> dict[str, float]:
        """Each metric's value at its last step."""
        return {name: points[max(points)][0] for name, points in self.series.items() if points}

    def last_images(self) -> dict[str, File]:
        """The last picture of each title."""
        by_step = sorted(self.images.items(), key=lambda image: image[0][1])
        return {title: file for (title, _), file in by_step}


def view(record: Record, events: Iterable[Event] | None = None) -> RunView:
    """A run, from its record, whose events may have been read already.

    Raises:
        RecordRefused: the record is damaged.
    """
    run = RunView(record, tags=dict(record.start.tags))
    for event in record.events() if events is None else events:
        match event:
            case Logged():
                for name in {**event.metrics, **event.steps}:
                    within = event.steps.get(name, [])
                    value = event.metrics.get(name, within[-1] if within else float("nan"))
                    run.series.setdefault(name, {})[event.step] = value, within
                run.images |= {(title, event.step): file for title, file in event.images.items()}
                run.files |= {**event.texts, **event.artifacts}
                run.tags |= event.tags
            case Observed():
                for name, value in event.values.items():
                    run.observed.setdefault(name, []).append(value)
            case ModelSaved():
                run.models.append(event)
            case ModelEvaluated():
                run.evaluated[event.model] = event
                for name, value in event.metrics.items():
                    run.series[f"{event.model}/{name}"] = {0: (value, [])}
                for name, points in event.series.items():
                    run.series[f"{event.model}/{name}"] = {x: (y, []) for x, y in points}
    return run
