"""Which records of runs there are on this machine."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runrecord.paths import RECORDS
from runrecord.record.events import Event, RunEnded
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import START, Files, RecordRefused, read_start
from runrecord.store.runs import is_running, run_dirs
from runrecord.store.summaries import RunSummary, read_summary, summary_of

OnFailure = Callable[[str, Exception], None]
"""Told the label of a record that cannot be used, and why."""


@dataclass(frozen=True)
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
