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

from runrecord.files import remove_unfinished, sha256, write_atomic
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
)
from runrecord.record.reader import Record, RunView, files_in, record_in, view
from runrecord.store.runs import is_running, run_dirs

SUMMARY = ".summary.json"  # the file in a run's folder; no part of the record
_VERSION = "3"  # raised with any change of what is in a summary
_SHORT = 16  # characters of a SHA-256 that tell files apart well enough to look closer


@dataclass(frozen=True, config=ConfigDict(ser_json_inf_nan="constants", extra="forbid"))
class RunSummary:
    """What a record says of its run, in short."""

    id: str
    stage: str
    host: str
    time: int  # when it began, in milliseconds since 1970, as `last`
    last: int  # its last sign of life
    length: int  # how many events there are
    cut_off: bool
    status: Status | None  # how it ended, if it did
    origin: str  # the digest of how it began: two runs that share an id have two
    git_commit: str
    experiment: str
    model: str | None = None  # the SHA-256 of the model that it made
    metrics: Mapping[str, float] | None = None
    """Each metric's last value; None if a line of the record is damaged."""
    evaluated: Mapping[str, Mapping[str, float]] | None = None
    """The metrics of each model that it evaluated, by the model's SHA-256."""
    wrote: tuple[str, ...] = ()  # the beginnings of the SHA-256 of what it wrote
    stamp: str = ""  # of the record's files, where this was read from a summary

    def may_have_written(self, digest: str) -> bool:
        """Is it worth looking into the record for a file of that SHA-256?"""
        return self.metrics is None or digest[:_SHORT] in self.wrote


_SUMMARY: TypeAdapter[RunSummary] = TypeAdapter(RunSummary)


def summary_of(folder: Path) -> RunSummary:
    """What the record of the run store in `folder` says; read from its summary, if that counts.

    Raises:
        RecordRefused: it cannot be used at all.
        OSError: it cannot be read.
    """
    file, stamp = folder / SUMMARY, _stamp(folder)
    with suppress(OSError, ValidationError):
        kept = _SUMMARY.validate_json(file.read_bytes())
        if kept.stamp == stamp:
            return kept
    summary = dataclasses.replace(read_summary(Record(files_in(folder))), stamp=stamp)
    if summary.status is not None:
        remove_unfinished(folder, f".{SUMMARY}.*")
        with suppress(OSError):  # it is read anew, then, as where another process removed this one
            write_atomic(file, _SUMMARY.dump_json(summary))
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
        id=start.id,
        stage=start.stage,
        host=start.host,
        time=start.time,
        last=record.last_sign_of_life,
        length=record.length,
        cut_off=record.cut_off,
        status=end.status if end else None,
        origin=sha256(json.dumps(dataclasses.asdict(start), sort_keys=True).encode()),
        git_commit=start.tags.get("git.commit", ""),
        experiment=start.tags.get("dvc.experiment", ""),
        model=seen.model if seen else None,
        metrics=seen.last_values() if seen else None,
        evaluated={one.sha256: one.metrics for one in seen.evaluated.values()} if seen else None,
        wrote=tuple(sorted(digest[:_SHORT] for digest in wrote)),
    )


def _stamp(folder: Path) -> str:
    found = [os.stat(folder / START)]
    with suppress(FileNotFoundError):
        found.append(os.stat(folder / EVENTS))
    return " ".join([_VERSION, *(f"{one.st_size} {one.st_mtime_ns}" for one in found)])


OnFailure = Callable[[str, Exception], None]  # told the label of a record, and what is wrong


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """A run that a record tells of."""

    label: str
    summary: RunSummary
    sealed: bool  # it comes from outside the run store: no process can still be writing it
    files: Callable[[], Files]  # finds those of its record

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
        """Its record, opened; RecordRefused: it is damaged."""
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
    for folder in run_dirs(root):
        try:
            summary = summary_of(folder)
        except (RecordRefused, OSError) as error:
            on_failure(str(folder), error)
        else:
            found.append(RecordedRun(str(folder), summary, False, partial(files_in, folder)))
    sealed = ((str(folder), files_in(folder)) for folder in sealed_records(root))
    return found + read_runs(sealed, on_failure)


def sealed_ids(root: Path) -> set[str]:
    """The runs that have a sealed record in the workspace."""
    records = map(record_in, sealed_records(root))
    return {record.start.id for record in records if record}


def sealed_records(root: Path) -> list[Path]:
    """The folder of each sealed record in the workspace."""
    return sorted(start.parent for start in (root / RECORDS).glob(f"[!.]*/{START}"))


def read_runs(found: Iterable[tuple[str, Files]], on_failure: OnFailure) -> list[RecordedRun]:
    """The runs that those sealed records tell of."""
    runs = []
    for label, files in found:
        try:
            runs.append(RecordedRun(label, read_summary(Record(files)), True, partial(dict, files)))
        except RecordRefused as error:
            on_failure(label, error)
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
