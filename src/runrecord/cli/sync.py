"""`runrecord sync`: make MLflow hold every run that left a record."""

from runrecord.catalog import newest_of_each, read_runs, records_in_store, records_in_workspace
from runrecord.cli.reporting import Report
from runrecord.dvc_cache import known_records
from runrecord.paths import repo_root
from runrecord.sync import Store, close_dead_runs, sync_lock, write_event_files


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
        report.closed(close_dead_runs(root, report.failed))
        runs = read_runs(records_in_store(root), report.failed, sealed=False)
        runs += read_runs(records_in_workspace(root), report.failed, sealed=True)
        if everything:
            runs += read_runs(report.found(known_records(root)), report.failed, sealed=True)
        runs = newest_of_each(runs, report.failed)
        ended = [run for run in runs if run.ended]
        store = Store(root)
        report.each("MLflow", ended, store.play)
        store.save_views()
        print(report.summary())
        if tensorboard:
            report.each("TensorBoard", ended, lambda run: write_event_files(run, root))
    report.conclude()
