"""Which records of runs there are on this machine."""

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runrecord.record.events import Event, RunEnded
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import START, Files, RecordRefused
from runrecord.store.index import RunIndex, Told, told_by
from runrecord.store.paths import RECORDS
from runrecord.store.runs import is_running

OnFailure = Callable[[str, Exception], None]
"""Told the label of a record that cannot be used, and why."""


@dataclass(frozen=True)
class Run:
    """A run that a record tells of."""

    label: str
    told: Told
    sealed: bool
    """It comes from outside the run store: no process can still be writing it."""
    files: Callable[[], Files]
    """Finds those of its record."""

    @property
    def ended(self) -> bool:
        """Will nothing be added to it?"""
        return self.sealed or self.told.status is not None

    @property
    def goes_on(self) -> bool:
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


def all_runs(root: Path, on_failure: OnFailure) -> list[Run]:
    """What every record of the store and of the workspace tells of, none of them opened again.

    A run can have several, and those that go on are among them.
    """
    with closing(RunIndex(root)) as index:
        for label, error in index.refused:
            on_failure(label, error)
        return [
            Run(str(one.folder), one.told, one.sealed, partial(files_in, one.folder))
            for one in index.all()
        ]


def sealed_records(root: Path) -> list[Path]:
    """The folder of each sealed record in the workspace."""
    return sorted(start.parent for start in (root / RECORDS).glob(f"[!.]*/{START}"))


def read_runs(found: Iterable[tuple[str, Files]], on_failure: OnFailure) -> list[Run]:
    """The runs that those sealed records tell of."""
    runs = []
    for label, files in found:
        try:
            told = told_by(Record(files))
        except RecordRefused as error:
            on_failure(label, error)
        else:
            runs.append(Run(label, told, sealed=True, files=lambda files=files: files))  # type: ignore[misc]
    return runs


def newest_of_each(runs: Iterable[Run], on_failure: OnFailure) -> list[Run]:
    """One record of each run, the most complete, in the order in which the runs began."""
    best: dict[str, Run] = {}
    for run in runs:
        told = run.told
        other = best.setdefault(told.id, run)
        if other.told.origin != told.origin:
            reason = f"its id '{told.id}' is that of another run, in {other.label}."
            on_failure(run.label, RecordRefused(reason))
        elif (run.ended, told.length) > (other.ended, other.told.length):
            best[told.id] = run
    return sorted(best.values(), key=lambda run: (run.told.time, run.told.id))
