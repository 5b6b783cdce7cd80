"""`runrecord sync`: make MLflow hold every run that left a record."""

from runrecord.catalog import all_runs, newest_of_each, read_runs
from runrecord.cli.console import say
from runrecord.cli.reporting import Report
from runrecord.dvc_cache import known_records
from runrecord.paths import repo_root
from runrecord.shown import lacks_artifacts
from runrecord.sync import Store, close_dead_runs, is_up_to_date, sync_lock, write_event_files


def sync(everything: bool, tensorboard: bool) -> None:
    """Make MLflow hold every run of the store and of the workspace's records.

    Args:
        everything: also those of every commit, DVC experiment and entry of DVC's run cache.
        tensorboard: also write the event files of all of them anew.

    Raises:
        UserError: the tracking store cannot be reached.
        RunFailed: some record could not be used; all others were.
    """
    root, report = repo_root(), Report()
    with sync_lock(root):
        runs, closed = close_dead_runs(root, all_runs(root, report.failed), report.failed)
        report.closed(closed)
        if everything:
            runs += read_runs(report.found(known_records(root)), report.failed)
        ended = [run for run in newest_of_each(runs, report.failed) if run.ended]
        if is_up_to_date(root, ended):
            report.each("MLflow", ended, lambda _run: "already there")
        else:
            store = Store(root)
            if lacks_artifacts(root, store.shown):
                say(
                    "warning: mlruns/ is gone, and with it the pictures and models of runs that "
                    "MLflow shows; remove mlflow.db* too and run 'runrecord sync --all' again."
                )
            report.each("MLflow", ended, store.play)
            store.save_views()
        print(report.summary())
        if tensorboard:
            report.each("TensorBoard", ended, lambda run: write_event_files(run, root))
    report.conclude()
