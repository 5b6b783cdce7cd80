"""Playing records into MLflow and TensorBoard: what is there stays, what is missing is added."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from filelock import FileLock

from runrecord.catalog import OnFailure, Run, read_runs, records_in_workspace
from runrecord.errors import UserError
from runrecord.project import load_project
from runrecord.record.reader import Record
from runrecord.record.schema import RecordRefused
from runrecord.run_store import close_if_dead, run_dirs, state_folder
from runrecord.sinks.mlflow import MlflowSink
from runrecord.sinks.mlflow_shown import Shown, shown_runs
from runrecord.sinks.mlflow_store import connect, database_of, is_embedded, tracking_uri
from runrecord.sinks.mlflow_views import save_views
from runrecord.sinks.tensorboard import TensorBoardSink
from runrecord.text import reason
from runrecord.verify.audit import Discrepancy, audit

CUT_OFF = "its last line is cut off; the rest is used"

Outcome = Literal["created", "completed", "already there"]


def sync_lock(root: Path) -> FileLock:
    """What one replay holds, so that two never play the same run at once."""
    return FileLock(state_folder(root) / "sync.lock")


def close_dead_runs(root: Path, on_failure: OnFailure) -> list[Record]:
    """Close as KILLED the runs of this host whose process is gone; returns them as found."""
    closed = []
    # A run that was sealed ended well, though the store may lack its end: the disk was full.
    sealed = {
        run.record.start.id for run in read_runs(records_in_workspace(root), _ignore, sealed=True)
    }
    for folder in run_dirs(root):
        if folder.name in sealed:
            continue
        try:
            record = close_if_dead(folder)
        except (RecordRefused, OSError) as error:
            on_failure(str(folder), error)
        else:
            closed += [record] if record is not None else []
    return closed


def _ignore(_label: str, _error: Exception) -> None:
    """Whoever plays that record will say what is wrong with it."""


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
            self._client, self.experiment = connect(root)
            self.shown: dict[str, Shown] = shown_runs(self._client, self.experiment)
            self._project = load_project(root)
            self._sink = MlflowSink(root)
        except UserError:
            raise
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
                self._sink.handle(event, run.record.contents)
            self._sink.flush()
        except Exception:
            self._still_there()
            raise
        return "completed" if run.record.start.id in self.shown else "created"

    def differences(self, record: Record) -> list[Discrepancy] | None:
        """What MLflow shows otherwise than the record has it; None if it does not show that run.

        What it does not show yet, and `runrecord sync` would add, does not count.

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

    def save_views(self) -> None:
        """Make MLflow's saved views show what there is by now.

        Raises:
            UserError: the store no longer answers.
        """
        try:
            save_views(self._client, self.experiment, self._project)
        except Exception as error:
            raise _unreachable(error) from None

    def write_probe(self) -> None:
        """Write something harmless.

        Raises:
            UserError: the store cannot be written.
        """
        try:
            self._client.set_experiment_tag(self.experiment, "doctor", "was here")
        except Exception as error:
            raise UserError(
                f"MLflow's tracking store can be read but not written ({reason(error)}); "
                "correct its permissions, or your user's."
            ) from None

    def _still_there(self) -> None:
        try:
            self._client.get_experiment(self.experiment)
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
        sink.handle(event, run.record.contents)
    sink.close()


def _unreachable(error: Exception) -> UserError:
    return UserError(
        f"MLflow's tracking store does not answer ({reason(error)}); start it, or correct "
        "MLFLOW_TRACKING_URI and its user and password, and sync again."
    )
