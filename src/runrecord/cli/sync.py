"""`runrecord sync`: make MLflow hold every run that left a record."""

from pathlib import Path

from runrecord.cli.console import Report
from runrecord.cli.runs import find_record
from runrecord.dvc.cache import known_records
from runrecord.project import repo_root
from runrecord.store.catalog import RecordedRun, all_runs, newest_of_each, read_runs
from runrecord.trackers.mlflow.store import Notes
from runrecord.trackers.player import (
    Store,
    close_dead_runs,
    is_live,
    outcome_noted,
    play_into,
    sync_lock,
)
from runrecord.trackers.tensorboard import TensorBoardSink


def sync(
    everything: bool = False, tensorboard: bool = False, check: bool = False, name: str = ""
) -> None:
    """Make MLflow hold every run of the store and of the workspace's records.

    Args:
        everything: also those of every commit and DVC experiment.
        tensorboard: also write the event files of all of them anew.
        check: also look for each picture, model and file of runs that MLflow shows.
        name: of the one run to bring there, also if it was deleted there.

    Raises:
        UserError: the tracking store cannot be reached, or there is no such run.
        RunFailed: some record could not be used; all others were.
    """
    root, report = repo_root(), Report()
    with sync_lock(root):
        runs, closed = close_dead_runs(root, all_runs(root, report.failed), report.failed)
        report.closed(closed)
        if everything:
            runs += read_runs(report.found(known_records(root, report.failed)), report.failed)
        if name:
            runs = _of_that_name(root, name, runs)
        ended = [run for run in newest_of_each(runs, report.failed) if run.ended]
        notes = Notes(root)
        noted = {run.id: outcome_noted(notes, run) for run in ended}
        nothing = notes.unchanged() and all(noted[run.id] or is_live(root, run) for run in ended)
        if nothing and not check and not name:
            report.each("MLflow", ended, lambda run: noted[run.id])
        else:
            store = Store(root)
            if name:
                for run in ended:
                    store.bring_back(run)
            report.each("MLflow", ended, lambda run: store.play(run, check))
            store.notes.looked_at()
        print(report.summary())
        if report.count("removed there"):
            print("What was removed there stays away: 'runrecord sync RUN' brings a run back.")
        if tensorboard:
            report.each("TensorBoard", ended, lambda run: play_into(TensorBoardSink(root), run))
    report.conclude()


def _of_that_name(root: Path, name: str, runs: list[RecordedRun]) -> list[RecordedRun]:
    """The records of the run of that name: among those, or known to DVC."""
    wanted = find_record(root, name).start.id
    found = [run for run in runs if run.id == wanted]
    if not found:
        there = ((label, files) for label, files in known_records(root) if files is not None)
        found = [run for run in read_runs(there, lambda _label, _error: None) if run.id == wanted]
    return found
