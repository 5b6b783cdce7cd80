"""What each record here says in short: a summary beside each ended run, so that none is read twice.

A summary may be removed at any time. It counts while the record's `run.json` and `events.jsonl`
have the size and the time that they had; where it cannot be written, the record is read again.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from runrecord.files import sha256, write_atomic
from runrecord.project import RECORDS
from runrecord.record.events import (
    EVENTS,
    START,
    Event,
    Files,
    RecordRefused,
    RunEnded,
    Status,
    files_of,
    read_start,
)
from runrecord.record.reader import Record, RunView, files_in, view
from runrecord.store.processes import is_running
from runrecord.store.runs import run_dirs

SUMMARY = ".summary.json"
"""The file in a run's folder; no part of the record."""
_VERSION = "2"
"""Raised with any change of what is in a summary."""
_SHORT = 16  # characters of a SHA-256 that tell files apart well enough to look closer


@dataclass(frozen=True, config=ConfigDict(ser_json_inf_nan="constants", extra="forbid"))
class RunSummary:
    """What a record says of its run, in short."""

    id: str
    stage: str
    host: str
    time: int
    """When it began, in milliseconds since 1970, as `last`."""
    last: int
    """Its last sign of life."""
    length: int
    """How many events there are."""
    cut_off: bool
    status: Status | None
    """How it ended, if it did."""
    origin: str
    """The digest of how it began: two runs that share an id have two."""
    git_commit: str
    experiment: str
    model: str | None = None
    """The SHA-256 of the model that it made."""
    metrics: Mapping[str, float] | None = None
    """Each metric's last value; None if a line of the record is damaged."""
    evaluated: Mapping[str, Mapping[str, float]] | None = None
    """The metrics of each model that it evaluated, by the model's SHA-256."""
    wrote: tuple[str, ...] = ()
    """The beginnings of the SHA-256 of what it wrote."""

    def may_have_written(self, digest: str) -> bool:
        """Is it worth looking into the record for a file of that SHA-256?"""
        return self.metrics is None or digest[:_SHORT] in self.wrote


@dataclass(frozen=True)
class _Kept:
    stamp: str
    summary: RunSummary


_KEPT: TypeAdapter[_Kept] = TypeAdapter(_Kept)


def summary_of(folder: Path) -> RunSummary:
    """What the record of the run store in `folder` says; read from its summary, if that counts.

    Raises:
        RecordRefused: it cannot be used at all.
        OSError: it cannot be read.
    """
    file, stamp = folder / SUMMARY, _stamp(folder)
    with suppress(OSError, ValidationError):
        kept = _KEPT.validate_json(file.read_bytes())
        if kept.stamp == stamp:
            return kept.summary
    summary = read_summary(Record(files_in(folder)))
    if summary.status is not None:
        with suppress(OSError):
            write_atomic(file, _KEPT.dump_json(_Kept(stamp, summary)))
    return summary


def read_summary(record: Record) -> RunSummary:
    """The same, from the record itself."""
    start, end = record.start, record.end
    seen: RunView | None = None
    wrote = set(end.outs.values()) if end else set()
    with suppress(RecordRefused):
        events = list(record.events(files=False))
        seen = view(record, events)
        wrote |= {file.sha256 for event in events for file in files_of(event)}
    return RunSummary(
        start.id,
        start.stage,
        start.host,
        start.time,
        record.last_sign_of_life,
        record.length,
        record.cut_off,
        end.status if end else None,
        sha256(json.dumps(dataclasses.asdict(start), sort_keys=True).encode()),
        start.tags.get("git.commit", ""),
        start.tags.get("dvc.experiment", ""),
        seen.model if seen else None,
        seen.last_values() if seen else None,
        {one.sha256: one.metrics for one in seen.evaluated.values()} if seen else None,
        tuple(sorted(digest[:_SHORT] for digest in wrote)),
    )


def _stamp(folder: Path) -> str:
    found = [os.stat(folder / START)]
    with suppress(FileNotFoundError):
        found.append(os.stat(folder / EVENTS))
    return " ".join([_VERSION, *(f"{one.st_size} {one.st_mtime_ns}" for one in found)])


OnFailure = Callable[[str, Exception], None]
"""Told the label of a record that cannot be used, and why."""


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """A run that a record tells of."""

    label: str
    summary: RunSummary
    sealed: bool
    """It comes from outside the run store: no process can still be writing it."""
    files: Callable[[], Files]
    """Finds those of its record."""

    @property
    def id(self) -> str:
        """The run's name."""
        return self.summary.id

    @property
    def ended(self) -> bool:
        """Will nothing be added to it?"""
        return self.sealed or self.summary.status is not None

    @property
    def is_live(self) -> bool:
        """Does a process still work on it, and show it itself?"""
        return not self.sealed and is_running(Path(self.label))

    def record(self) -> Record:
        """Its record, opened.

        Raises:
            RecordRefused: it is damaged.
        """
        return Record(self.files())

    def events(self, record: Record) -> list[Event]:
        """All that happened, read and checked before any of it is shown.

        Raises:
            RecordRefused: something in it is damaged, missing or not to be trusted.
        """
        events = list(record.events())
        if self.sealed and record.end is None:
            message = "its record is cut off: how it ended is not known"
            events.append(RunEnded(record.last_sign_of_life, "KILLED", message))
        return events


def all_runs(root: Path, on_failure: OnFailure) -> list[RecordedRun]:
    """What every record of the store and of the workspace tells of.

    A run can have several, and those that go on are among them.
    """
    found = []
    for folders, sealed in ((run_dirs(root), False), (sealed_records(root), True)):
        for folder in folders:
            try:
                summary = read_summary(Record(files_in(folder))) if sealed else summary_of(folder)
            except (RecordRefused, OSError) as error:
                on_failure(str(folder), error)
            else:
                found.append(RecordedRun(str(folder), summary, sealed, partial(files_in, folder)))
    return found


def sealed_ids(root: Path) -> set[str]:
    """The runs that have a sealed record in the workspace."""
    found = set()
    for folder in sealed_records(root):
        with suppress(OSError, ValueError):
            found.add(read_start((folder / START).read_bytes()).id)
    return found


def sealed_records(root: Path) -> list[Path]:
    """The folder of each sealed record in the workspace."""
    return sorted(start.parent for start in (root / RECORDS).glob(f"[!.]*/{START}"))


def read_runs(found: Iterable[tuple[str, Files]], on_failure: OnFailure) -> list[RecordedRun]:
    """The runs that those sealed records tell of."""
    runs = []
    for label, files in found:
        try:
            summary = read_summary(Record(files))
        except RecordRefused as error:
            on_failure(label, error)
        else:
            runs.append(RecordedRun(label, summary, True, lambda files=files: files))  # type: ignore[misc]
    return runs


def newest_of_each(runs: Iterable[RecordedRun], on_failure: OnFailure) -> list[RecordedRun]:
    """One record of each run, the most complete, in the order in which the runs began."""
    best: dict[str, RecordedRun] = {}
    for run in runs:
        other = best.setdefault(run.id, run)
        if other.summary.origin != run.summary.origin:
            reason = f"its id '{run.id}' is that of another run, in {other.label}."
            on_failure(run.label, RecordRefused(reason))
        elif _worth(run) > _worth(other):
            best[run.id] = run
    return sorted(best.values(), key=lambda run: (run.summary.time, run.id))


def _worth(run: RecordedRun) -> tuple[bool, int, bool]:
    """How complete it is; of a run that was killed once it was sealed, the sealed record counts."""
    return run.ended, run.summary.length, run.summary.status == "FINISHED"
