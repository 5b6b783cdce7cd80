"""Playing records into MLflow and TensorBoard: what is there stays, what is missing is added."""

from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from runrecord.errors import UserError
from runrecord.project import load_project
from runrecord.record.reader import Record
from runrecord.record.schema import RecordRefused
from runrecord.store.catalog import OnFailure, Run, all_runs
from runrecord.store.locks import held
from runrecord.store.runs import close_if_dead, remove_stillborn, state_folder
from runrecord.trackers.mlflow.artifacts import Shown, lacks_files
from runrecord.trackers.mlflow.audit import audit
from runrecord.trackers.mlflow.failures import explain, store_failure
from runrecord.trackers.mlflow.reads import ask_shown, shown_in_file
from runrecord.trackers.mlflow.sink import MlflowSink
from runrecord.trackers.mlflow.store import connect, database_of, is_embedded, key_of, tracking_uri
from runrecord.trackers.mlflow.sync_plan import Outcome, goes_on, note_views, outcome_of, removed
from runrecord.trackers.mlflow.views import save_views
from runrecord.verify.compare import Difference

CUT_OFF = "its last line is cut off; the rest is used"


class NotShown(Exception):
    """MLflow does not show all of a run."""


def sync_lock(root: Path) -> AbstractContextManager[None]:
    """What one replay holds, so that two never play the same run at once."""
    return held(state_folder(root) / "sync.lock")


def close_dead_runs(
    root: Path, runs: list[Run], on_failure: OnFailure, told: Collection[str] = ()
) -> tuple[list[Run], list[Record]]:
    """Close as KILLED the runs whose process is gone for certain, or is said to be.

    Args:
        root: of the main repository.
        runs: all of its run store and of its workspace.
        on_failure: told what cannot be closed.
        told: the ids of runs whose process a person says to be gone.

    Returns all runs as they are now, and the records of those closed, as they were found.
    """
    # A run that was sealed ended well, though the store may lack its end: the disk was full.
    sealed = {run.told.id for run in runs if run.sealed}
    remove_stillborn(root)
    closed = []
    for run in runs:
        folder = Path(run.label)
        if run.ended or folder.name in sealed:
            continue
        try:
            record = close_if_dead(folder, run.told.id in told)
        except (RecordRefused, OSError) as error:
            on_failure(run.label, error)
        else:
            closed += [record] if record is not None else []
    return all_runs(root, _ignore) if closed else runs, closed


def _ignore(_label: str, _error: Exception) -> None:
    """It was said before."""


def has_store(root: Path) -> bool:
    """Is there a tracking store to connect to, or would connecting make an empty one?"""
    uri = tracking_uri(root)
    return not is_embedded(uri) or database_of(uri).exists()


def shown_in(root: Path) -> Mapping[str, Shown]:
    """What the tracking store shows, by the records' ids; MLflow is imported where it has to be.

    Raises:
        UserError: it cannot be reached.
    """
    shown = shown_in_file(root)
    return Store(root).shown if shown is None else shown


def find_shown(root: Path, name: str) -> tuple[str, Shown] | None:
    """The record's id, and what the tracking store shows, of the run with that name or MLflow id.

    Raises:
        UserError: the store cannot be reached.
    """
    if not has_store(root):
        return None
    shown = shown_in_file(root, name)
    return next(iter(shown.items()), None) if shown is not None else Store(root).find(name)


@contextmanager
def _refusals_said(root: Path) -> Iterator[None]:
    """Say what the tracking store does not do, as a UserError; what a person was told stays so."""
    try:
        yield
    except (UserError, RecordRefused):
        raise
    except Exception as error:
        raise store_failure(error, root) from None


class Store:
    """MLflow's tracking store."""

    def __init__(self, root: Path) -> None:
        """Connect.

        Raises:
            UserError: it cannot be reached, or refuses.
        """
        self._root = root
        with _refusals_said(root):
            self._client, self.experiment = connect(root)

    @cached_property
    def removed(self) -> Set[str]:
        """The runs that it showed once, and whoever deleted them had it forget.

        Raises:
            UserError: the store no longer answers.
        """
        with _refusals_said(self._root):
            key = key_of(self._client.get_experiment(self.experiment))
        return removed(self._root, key, self.shown)

    @cached_property
    def shown(self) -> dict[str, Shown]:
        """What it showed when it was first asked, by the records' ids.

        Raises:
            UserError: the store no longer answers.
        """
        return self._shown()

    def find(self, name: str) -> tuple[str, Shown] | None:
        """The record's id, and what is shown, of the run with that name or MLflow id.

        Raises:
            UserError: the store no longer answers.
        """
        return next(iter(self._shown(name).items()), None)

    def _shown(self, name: str | None = None) -> dict[str, Shown]:
        shown = shown_in_file(self._root, name)
        if shown is not None:
            return shown
        with _refusals_said(self._root):
            return ask_shown(self._client, self.experiment, name)

    @cached_property
    def _sink(self) -> MlflowSink:
        return MlflowSink(self._root)

    def holds(self, run: Run) -> Outcome | None:
        """Is all of that run there, or was it deleted there by a person? Neither: None."""
        return outcome_of(self.shown, self.removed, run)

    def lacks_files(self, run: Run) -> bool:
        """Does it show that run, but not all of its pictures, models and other files?

        Those that are damaged count.

        Raises:
            RecordRefused: the record is damaged.
            UserError: the store no longer answers.
        """
        found = self.shown.get(run.told.id)
        if found is None or found.deleted:
            return False
        with _refusals_said(self._root):
            record = run.record()
            return lacks_files(self._client, found.run_id, record) or bool(record.damaged)

    def bring_back(self, run: Run) -> None:
        """Let a run that was deleted there be one that is not.

        Raises:
            UserError: the store refuses, or no longer answers.
        """
        found = self.shown.get(run.told.id)
        if found and found.deleted:
            with _refusals_said(self._root):
                self._client.restore_run(found.run_id)
            self.shown[run.told.id] = replace(found, deleted=False)
        self.removed -= {run.told.id}

    def play(self, run: Run, check: bool = False) -> Outcome | None:
        """Add what is missing of a run; one that goes on is left alone.

        Args:
            run: it.
            check: look for each of its files, also where all seems to be there.

        Raises:
            UserError: the store no longer answers, or refuses.
            RecordRefused: the record is damaged.
            NotShown: this run cannot be shown, or not with all of its files.
        """
        held = self.holds(run)
        if held and not (check and self.lacks_files(run)):
            return held
        if goes_on(self._root, run):
            return None
        record = run.record()
        events = run.events(record)
        try:
            for event in events:
                self._sink.handle(event, record.contents)
            self._sink.owed = record.damage()
            self._sink.close()
        except RecordRefused:
            raise
        except Exception as error:
            self._still_there()
            why, remedy = explain(error, self._root)
            raise store_failure(error, self._root) if remedy else NotShown(why) from None
        if self._sink.owed:
            self._still_there()
            raise NotShown(
                f"MLflow shows it, but not all its pictures, models and files ({self._sink.owed})"
            )
        return "completed" if run.told.id in self.shown else "created"

    def differences(self, record: Record) -> list[Difference] | None:
        """What MLflow shows otherwise than the record has it; None if it does not show that run.

        What it does not show yet, and `runrecord sync` would add, does not count.

        Raises:
            RecordRefused: the record is damaged.
            UserError: the store no longer answers.
        """
        _, shown = self.find(record.start.id) or ("", None)
        if shown is None or shown.deleted:
            return None
        with _refusals_said(self._root):
            found = audit(self._client, shown.run_id, record)
        whole = shown.events >= record.length
        return [one for one in found if whole or one.state != "missing"]

    def tag(self, record_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, if it is shown.

        Raises:
            UserError: the store cannot be written.
        """
        found = self.find(record_id)
        if found is None:
            return
        with _refusals_said(self._root):
            for key, value in tags.items():
                self._client.set_tag(found[1].run_id, key, value)

    def save_views(self) -> None:
        """Make MLflow's saved views show what there is by now.

        Raises:
            UserError: the store no longer answers.
        """
        with _refusals_said(self._root):
            save_views(self._client, self.experiment, load_project(self._root))
        note_views(self._root)

    def write_probe(self) -> None:
        """Write something harmless.

        Raises:
            UserError: the store cannot be written.
        """
        try:
            self._client.set_experiment_tag(self.experiment, "doctor", "was here")
        except Exception as error:
            why, remedy = explain(error, self._root)
            remedy = remedy or "correct its permissions, or your user's"
            raise UserError(
                f"MLflow's tracking store can be read but not written ({why}); {remedy}."
            ) from None

    def _still_there(self) -> None:
        with _refusals_said(self._root):
            self._client.get_experiment(self.experiment)
