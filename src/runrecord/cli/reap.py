"""`runrecord reap`: close the runs whose process is gone."""

from runrecord.catalog import all_runs, newest_of_each
from runrecord.cli.reporting import Report
from runrecord.paths import repo_root
from runrecord.sync import Store, close_dead_runs, shown_in, sync_lock


def reap() -> None:
    """Close as KILLED every run of this host whose process is gone, in its record and in MLflow.

    Live runs and those of other hosts are left alone.

    Raises:
        UserError: the tracking store cannot be reached; the records are closed all the same.
        RunFailed: a record is damaged or cannot be written.
    """
    root, report = repo_root(), Report()
    with sync_lock(root):
        runs, closed = close_dead_runs(root, all_runs(root, report.failed), report.failed)
        report.closed(closed)
        gone = {key for key, shown in shown_in(root).items() if shown.status == "RUNNING"}
        gone |= {record.start.id for record in closed}
        runs = newest_of_each((run for run in runs if not run.sealed), report.failed)
        stale = [run for run in runs if run.ended and run.told.id in gone]
        if stale:
            report.each("MLflow", stale, Store(root).play)
            shown = shown_in(root)
            gone = {key for key, one in shown.items() if one.status != "RUNNING"}
        print(f"{len([run for run in stale if run.told.id in gone])} closed in MLflow")
    report.conclude()
