"""`runrecord reap`: close the runs whose process is gone."""

from collections.abc import Iterable, Sequence

from runrecord.cli.console import say
from runrecord.cli.reporting import Report
from runrecord.errors import UserError
from runrecord.store.catalog import Run, all_runs, newest_of_each
from runrecord.store.paths import repo_root
from runrecord.trackers.player import Store, close_dead_runs, shown_in, sync_lock


def reap(names: Sequence[str] = (), host: str | None = None) -> None:
    """Close as KILLED every run whose process is gone, in its record and in MLflow.

    Of that, a run of another machine leaves doubt: it is closed if a person names it. Live runs are
    left alone.

    Args:
        names: runs whose process a person says to be gone.
        host: a host that is gone with all of its runs.

    Raises:
        UserError: a named run is not there, or the tracking store cannot be reached; in the latter
            case the records are closed all the same.
        RunFailed: a record is damaged or cannot be written.
    """
    root, report = repo_root(), Report()
    with sync_lock(root):
        runs = all_runs(root, report.failed)
        told = {*names, *(run.told.id for run in runs if run.told.host == host)}
        if unknown := {*names} - {run.told.id for run in runs if not run.sealed}:
            raise UserError(
                f"{min(unknown)}: no such run is in the run store; 'runrecord runs' lists them"
            )
        runs, closed = close_dead_runs(root, runs, report.failed, told)
        report.closed(closed)
        _say_what_is_left(runs, told)
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


def _say_what_is_left(runs: Iterable[Run], told: Iterable[str]) -> None:
    """Of runs that did not end, and were not closed: why."""
    sealed = {run.told.id for run in runs if run.sealed}
    for run in runs:
        run_id, host = run.told.id, run.told.host
        if run.ended or run_id in sealed:
            continue
        if run.goes_on and run_id in told:
            say(f"{run_id}: a process works on it; it is left alone.")
        elif not run.goes_on:
            say(
                f"{run_id}: its process on {host} may be gone, which cannot be told from here; if "
                f"it is, say 'runrecord reap {run_id}', or 'runrecord reap --host {host}' for all."
            )
