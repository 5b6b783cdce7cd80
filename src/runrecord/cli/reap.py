"""`runrecord reap`: close the runs whose process is gone."""

from runrecord.catalog import newest_of_each, read_runs, records_in_store
from runrecord.cli.reporting import Report
from runrecord.paths import repo_root
from runrecord.sync import Store, close_dead_runs, sync_lock


def reap() -> None:
    """Close as KILLED every run of this host whose process is gone, in its record and in MLflow.

    Live runs and those of other hosts are left alone.

    Raises:
        UserError: the tracking store cannot be reached; the records are closed all the same.
        RunFailed: a record is damaged or cannot be written.
    """
    root, report = repo_root(), Report()
    with sync_lock(root):
        closed = close_dead_runs(root, report.failed)
        report.closed(closed)
        runs = newest_of_each(
            read_runs(records_in_store(root), report.failed, sealed=False), report.failed
        )
        store = Store(root)
        gone = {key for key, shown in store.shown.items() if shown.status == "RUNNING"}
        gone |= {record.start.id for record in closed}
        stale = [run for run in runs if run.ended and run.record.start.id in gone]
        report.each("MLflow", stale, store.play)
        print(f"{len(stale)} closed in MLflow")
    report.conclude()
