"""Playing records into MLflow and TensorBoard: what is there stays, what is missing is added."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from runrecord.errors import UserError
from runrecord.record.events import RecordRefused
from runrecord.record.reader import Record
from runrecord.store.catalog import OnFailure, RecordedRun, all_runs
from runrecord.store.runs import (
    close_if_dead,
    held,
    is_followed,
    is_running,
    remove_stillborn,
    run_dir,
    state_folder,
)
from runrecord.trackers.base import Sink
from runrecord.trackers.mlflow.artifacts import lacks_files, runs_shown
from runrecord.trackers.mlflow.audit import audit
from runrecord.trackers.mlflow.sink import MlflowSink
from runrecord.trackers.mlflow.store import (
    Shown,
    database_of,
    explain,
    is_unchanged,
    keep_look,
    last_look,
    store_failure,
)
from runrecord.verify.compare import Difference

Outcome = Literal["created", "completed", "already there", "removed there"]


class NotShown(Exception):
    """MLflow does not show all of a run."""


def sync_lock(root: Path) -> AbstractContextManager[None]:
    """What one replay holds, so that two never play the same run at once."""
    return held(state_folder(root) / "sync.lock")


def close_dead_runs(
    root: Path, runs: list[RecordedRun], on_failure: OnFailure, told: Collection[str] = ()
) -> tuple[list[RecordedRun], list[Record]]:
    """Close as KILLED those of all runs whose process is gone for certain, or is said to be.

    `told` are the ids of runs whose process a person says to be gone. Returns all runs as they are
    now, and the records of those closed, as they were found.
    """
    # A run that was sealed ended well, though the store may lack its end: the disk was full.
    sealed = {run.id for run in runs if run.sealed}
    remove_stillborn(root)
    closed = []
    for run in runs:
        folder = Path(run.label)
        if run.ended or folder.name in sealed:
            continue
        try:
            record = close_if_dead(folder, run.id in told)
        except (RecordRefused, OSError) as error:
            on_failure(run.label, error)
        else:
            closed += [record] if record is not None else []
    # What cannot be used was said before.
    return all_runs(root, lambda _label, _error: None) if closed else runs, closed


def is_live(root: Path, run: RecordedRun) -> bool:
    """Does a process still work on it, or show what it has sealed?"""
    folder = run_dir(root, run.id)
    return run.is_live or is_running(folder) or is_followed(folder)


def has_store(root: Path) -> bool:
    """Is there a tracking store to connect to, or would connecting make an empty one?"""
    database = database_of(root)
    return database is None or database.exists()


def outcome_of(run: RecordedRun, shown: Mapping[str, Shown]) -> Outcome | None:
    """Is all of that run shown, or was it removed there by a person? Neither: None."""
    found = shown.get(run.id)
    if found is None or found.start != run.summary.time:
        return None
    if found.deleted:
        return "removed there"
    return "already there" if found.events >= run.summary.length else None


def find_shown(root: Path, name: str) -> str | None:
    """The record's id of the run with that id in MLflow, which is asked unless that is noted.

    Raises:
        UserError: the store cannot be reached.
    """
    for record_id, shown in last_look(root).runs.items():
        if name and shown.run_id == name:
            return record_id
    if not has_store(root):
        return None
    found = Store(root).find(name)
    return found[0] if found else None


def play_into(sink: Sink, run: RecordedRun) -> None:
    """Show all of a run, whatever is there already.

    Raises:
        RecordRefused: the record is damaged.
        NotShown: some of its files are, or cannot be shown; all else is there.
    """
    record = run.record()
    for event in run.events(record):
        sink.handle(event, record.contents)
    sink.owed = record.damage()
    sink.close()
    if sink.owed:
        raise NotShown(
            f"{sink.name} shows it, but not all its pictures, models and files ({sink.owed})"
        )


@contextmanager
def _said(root: Path) -> Iterator[None]:
    """Let what the tracking store does not do be a UserError, one sentence for a person."""
    try:
        yield
    except (UserError, RecordRefused):
        raise
    except Exception as error:
        raise store_failure(error, root) from None


class Store:
    """MLflow's tracking store; UserError is raised where it cannot be reached or refuses."""

    def __init__(self, root: Path) -> None:
        with _said(root):
            self.root = root
            self._sink = MlflowSink(root)
            self._client, self.experiment = self._sink.client, self._sink.experiment
            created = self._client.get_experiment(self.experiment).creation_time
        self._key = f"{self.experiment}-{created}"  # another one may have its name later

    @cached_property
    def shown(self) -> dict[str, Shown]:
        """What it shows of each run, by the records' ids, and what it showed until `mlflow gc`."""
        look = last_look(self.root)
        if look.experiment == self._key and is_unchanged(self.root, look):
            return look.runs
        with _said(self.root):
            shown = runs_shown(self._client, self.experiment)
        for name, found in shown.items():
            if not self._has_folders(found):
                shown[name] = replace(found, events=0)
        kept = look.runs if look.experiment == self._key else {}
        return {name: replace(one, run_id="", deleted=True) for name, one in kept.items()} | shown

    def keep(self) -> None:
        """Note what it shows, so that the next `sync` need not ask."""
        keep_look(self.root, self._key, self.shown)

    def _has_folders(self, found: Shown) -> bool:
        """Are the folders of a run's files there? Those of a server are not looked for."""
        runs = self.root / "mlruns"
        return database_of(self.root) is None or (
            (runs / found.run_id).is_dir()
            and (not found.model_id or (runs / "models" / found.model_id).is_dir())
        )

    def find(self, name: str) -> tuple[str, Shown] | None:
        """The record's id, and what is shown, of the run with that name or MLflow id."""
        with _said(self.root):
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                return None
            for wanted in (f"tags.`record.id` = '{name}'", f"attributes.run_id = '{name}'"):
                for found in runs_shown(self._client, self.experiment, wanted).items():
                    return found
            return None

    def holds(self, run: RecordedRun) -> Outcome | None:
        """Is all of that run there, or was it deleted there by a person? Neither: None."""
        return outcome_of(run, self.shown)

    def bring_back(self, run: RecordedRun) -> None:
        """Let a run that was deleted there be one that is not."""
        with _said(self.root):
            found = self.shown.get(run.id)
            if found and found.deleted:
                del self.shown[run.id]
                if found.run_id:
                    self._client.restore_run(found.run_id)
                    self.shown[run.id] = replace(found, deleted=False)

    def play(self, run: RecordedRun, check: bool = False) -> Outcome | None:
        """Add what is missing of a run; one that goes on is left alone.

        With `check`, each of its files is looked for, also where all seems to be there.

        Raises:
            RecordRefused: the record is damaged.
            NotShown: this run cannot be shown, or not with all of its files.
        """
        outcome = self.holds(run)
        found = self.shown.get(run.id) if check and outcome == "already there" else None
        with _said(self.root):
            if outcome and not (found and lacks_files(self._client, found.run_id, run.record())):
                return outcome
        if is_live(self.root, run):
            return None
        try:
            play_into(self._sink, run)
        except RecordRefused:
            raise
        except Exception as error:
            self.write_probe()
            raise NotShown(explain(error, self.root)) from None
        self.shown[run.id] = Shown(self._sink.run_id, run.summary.time, run.summary.length)
        return "created" if self._sink.made_now else "completed"

    def differences(self, record: Record) -> list[Difference] | None:
        """What MLflow shows otherwise than the record has it; None if it does not show that run.

        What it does not show yet, and `runrecord sync` would add, does not count.

        Raises:
            RecordRefused: the record is damaged.
        """
        with _said(self.root):
            _, shown = self.find(record.start.id) or ("", None)
            if shown is None or shown.deleted:
                return None
            found = audit(self._client, shown.run_id, record)
            whole = shown.events >= record.length
            return [one for one in found if whole or one.state != "missing"]

    def tag(self, record_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, if it is shown."""
        with _said(self.root):
            if found := self.find(record_id):
                for key, value in tags.items():
                    self._client.set_tag(found[1].run_id, key, value)

    def write_probe(self) -> None:
        """Write something harmless: is it the store that fails, or one run that it refuses?"""
        with _said(self.root):
            self._client.set_experiment_tag(self.experiment, "runrecord", "was here")
