"""Playing records into MLflow and TensorBoard: what is there stays, what is missing is added."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from generative.audit import Discrepancy, audit
from generative.errors import UserError
from generative.record import START, Files, Record, RecordRefused, files_in
from generative.redact import reason
from generative.spool import close_if_gone, is_live, records_in, state_folder
from generative.tracking.events import Event, RunEnded
from generative.tracking.mlflow import MlflowSink
from generative.tracking.mlflow_store import (
    Shown,
    connect,
    database_of,
    is_embedded,
    shown_runs,
    tracking_uri,
)
from generative.tracking.tensorboard import TensorBoardSink

CUT_OFF = "its last line is cut off; the rest is used"

Outcome = Literal["created", "completed", "already there"]
OnFailure = Callable[[str, Exception], None]
"""Told the label of a record that cannot be used, and why."""


@dataclass(frozen=True)
class Run:
    """A run that a record tells of."""

    label: str
    record: Record
    sealed: bool
    """It comes from outside the spool: no process can still be writing it."""

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


def alone(root: Path) -> FileLock:
    """What one replay holds, so that two never play the same run at once."""
    state_folder(root).mkdir(exist_ok=True)
    return FileLock(state_folder(root) / "sync.lock")


def close_gone(root: Path, on_failure: OnFailure) -> list[Record]:
    """Close as KILLED the runs of this host whose process is gone; returns them as found."""
    closed = []
    # A run that was sealed ended well, though the spool may lack its end: the disk was full.
    sealed = {run.record.start.id for run in read_runs(restored(root), _ignore, sealed=True)}
    for folder in records_in(root):
        if folder.name in sealed:
            continue
        try:
            record = close_if_gone(folder)
        except (RecordRefused, OSError) as error:
            on_failure(str(folder), error)
        else:
            closed += [record] if record is not None else []
    return closed


def _ignore(_label: str, _error: Exception) -> None:
    """Whoever plays that record will say what is wrong with it."""


def spooled(root: Path) -> Iterator[tuple[str, Files]]:
    """A label and the files of each record in the spool that no process is writing."""
    for folder in records_in(root):
        if not is_live(folder):
            yield str(folder), files_in(folder)


def restored(root: Path) -> Iterator[tuple[str, Files]]:
    """A label and the files of each sealed record in the workspace."""
    for start in sorted((root / "records").glob(f"*/{START}")):
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


def distinct(runs: Iterable[Run], on_failure: OnFailure) -> list[Run]:
    """One record a run, the most complete, in the order in which the runs began."""
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


def has_store(root: Path) -> bool:
    """Is there a tracking store to connect to, or would connecting make an empty one?"""
    uri = tracking_uri(root)
    return not is_embedded(uri) or database_of(uri).exists()


class Store:
    """MLflow's tracking store, with what it shows already."""

    def __init__(self, root: Path) -> None:
        """Connect.

        Raises:
            UserError: it cannot be reached, or refuses.
        """
        try:
            self._client, self._experiment = connect(root)
            self.shown: dict[str, Shown] = shown_runs(self._client, self._experiment)
            self._sink = MlflowSink(root)
        except Exception as error:
            raise _unreachable(error) from None

    def holds(self, run: Run) -> bool:
        """Is all of that run there, or was it deleted there by a person?"""
        shown = self.shown.get(run.record.start.id)
        if shown is None or shown.start != run.record.start.time:
            return False
        whole = shown.events >= run.record.length and shown.status != "RUNNING"
        return shown.deleted or whole

    def play(self, run: Run) -> Outcome:
        """Add what is missing of a run.

        Raises:
            UserError: the store no longer answers.
            Exception: this run cannot be shown.
        """
        if self.holds(run):
            return "already there"
        events = run.events()
        try:
            for event in events:
                self._sink.handle(event)
        except Exception:
            self._still_there()
            raise
        return "completed" if run.record.start.id in self.shown else "created"

    def differences(self, record: Record) -> list[Discrepancy] | None:
        """What MLflow shows otherwise than the record has it; None if it does not show that run.

        What it does not show yet, and `generative sync` would add, does not count.

        Raises:
            RecordRefused: the record is damaged.
            UserError: the store no longer answers.
        """
        shown = self.shown.get(record.start.id)
        if shown is None or shown.deleted:
            return None
        try:
            found = audit(self._client, shown.run_id, record)
        except RecordRefused:
            raise
        except Exception as error:
            raise _unreachable(error) from None
        whole = shown.events >= record.length
        return [one for one in found if whole or one.shown is not None]

    def tag(self, record_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run that is shown.

        Raises:
            UserError: the store cannot be written.
        """
        try:
            for key, value in tags.items():
                self._client.set_tag(self.shown[record_id].run_id, key, value)
        except Exception as error:
            raise _unreachable(error) from None

    def write_probe(self) -> None:
        """Write something harmless.

        Raises:
            UserError: the store cannot be written.
        """
        try:
            self._client.set_experiment_tag(self._experiment, "doctor", "was here")
        except Exception as error:
            raise UserError(
                f"MLflow's tracking store can be read but not written ({reason(error)}); "
                "correct its permissions, or your user's."
            ) from None

    def _still_there(self) -> None:
        try:
            self._client.get_experiment(self._experiment)
        except Exception as error:
            raise _unreachable(error) from None


def write_event_files(run: Run, root: Path) -> None:
    """Write TensorBoard's event files of a run anew.

    Raises:
        RecordRefused: its record is damaged.
        OSError: they cannot be written.
    """
    sink = TensorBoardSink(root)
    for event in run.events():
        sink.handle(event)
    sink.close()


def _unreachable(error: Exception) -> UserError:
    return UserError(
        f"MLflow's tracking store does not answer ({reason(error)}); start it, or correct "
        "MLFLOW_TRACKING_URI and its user and password, and sync again."
    )
