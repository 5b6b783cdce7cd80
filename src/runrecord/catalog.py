"""Which records of runs there are on this machine."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runrecord.events import Event, RunEnded
from runrecord.paths import RECORDS
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import START, Files, RecordRefused
from runrecord.run_store import is_running, run_dirs

OnFailure = Callable[[str, Exception], None]
"""Told the label of a record that cannot be used, and why."""


@dataclass(frozen=True)
class Run:
    """A run that a record tells of."""

    label: str
    record: Record
    sealed: bool
    """It comes from outside the run store: no process can still be writing it."""

    @property
    def ended(self) -> bool:
        """Will nothing be added to it?"""
        return self.sealed or self.record.end is not None

    def events(self) -> list[Event]:
        """All that happened, read and checked before any of it is shown.

        Raises:
            RecordRefused: something in it is damaged, missing or not to be trusted.
        """
        events = list(self.record.events())
        if self.sealed and self.record.end is None:
            message = "its record is cut off: how it ended is not known"
            events.append(RunEnded(self.record.last_sign_of_life, "KILLED", message))
        return events


def records_in_store(root: Path) -> Iterator[tuple[str, Files]]:
    """A label and the files of each record in the run store that no process is writing."""
    for folder in run_dirs(root):
        if not is_running(folder):
            yield str(folder), files_in(folder)


def records_in_workspace(root: Path) -> Iterator[tuple[str, Files]]:
    """A label and the files of each sealed record in the workspace."""
    for start in sorted((root / RECORDS).glob(f"*/{START}")):
        yield str(start.parent), files_in(start.parent)


def read_runs(
    found: Iterable[tuple[str, Files]], on_failure: OnFailure, *, sealed: bool
) -> list[Run]:
    """The runs that those records tell of."""
    runs = []
    for label, files in found:
        try:
            runs.append(Run(label, Record(files), sealed))
        except RecordRefused as error:
            on_failure(label, error)
    return runs


def newest_of_each(runs: Iterable[Run], on_failure: OnFailure) -> list[Run]:
    """One record of each run, the most complete, in the order in which the runs began."""
    best: dict[str, Run] = {}
    for run in runs:
        start = run.record.start
        other = best.setdefault(start.id, run)
        if other.record.start != start:
            reason = f"its id '{start.id}' is that of another run, in {other.label}."
            on_failure(run.label, RecordRefused(reason))
        elif (run.ended, run.record.length) > (other.ended, other.record.length):
            best[start.id] = run
    return sorted(best.values(), key=lambda run: (run.record.start.time, run.record.start.id))


def all_runs(root: Path, on_failure: OnFailure) -> list[Run]:
    """Every run of the store, those that go on included, and of the workspace's records."""
    in_store = ((str(folder), files_in(folder)) for folder in run_dirs(root))
    runs = read_runs(in_store, on_failure, sealed=False)
    runs += read_runs(records_in_workspace(root), on_failure, sealed=True)
    return newest_of_each(runs, on_failure)
