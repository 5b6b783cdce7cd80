"""`runrecord reap`: close the runs whose process is gone."""

from collections.abc import Iterable, Sequence

from runrecord.cli.console import Report, say
from runrecord.errors import UserError
from runrecord.project import repo_root
from runrecord.store.catalog import RecordedRun, all_runs, newest_of_each
from runrecord.trackers.mlflow.store import Noted, Notes
from runrecord.trackers.player import Store, close_dead_runs, sync_lock


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
        told = {*names, *(run.id for run in runs if run.summary.host == host)}
        if unknown := {*names} - {run.id for run in runs if not run.sealed}:
            raise UserError(
                f"{min(unknown)}: no such run is in the run store; 'runrecord runs' lists them"
            )
        runs, closed = close_dead_runs(root, runs, report.failed, told)
        report.closed(closed)
        _say_what_is_left(runs, told)
        notes, now_closed = Notes(root), {record.start.id for record in closed}
        runs = newest_of_each((run for run in runs if not run.sealed), report.failed)
        stale = [
            run
            for run in runs
            if run.ended and (run.id in now_closed or _is_open(notes.runs.get(run.id), run))
        ]
        done: list[str] = []
        if stale:
            store = Store(root)

            def close(run: RecordedRun) -> str | None:
                outcome = store.play(run)
                done.append(run.id)
                return outcome

            report.each("MLflow", stale, close)
        print(f"{len(done)} closed in MLflow")
    report.conclude()


def _is_open(noted: Noted | None, run: RecordedRun) -> bool:
    """Was it shown in MLflow, but not to its end?"""
    return noted is not None and not noted.removed and noted.events < run.summary.length


def _say_what_is_left(runs: Iterable[RecordedRun], told: Iterable[str]) -> None:
    """Of runs that did not end, and were not closed: why."""
    sealed = {run.id for run in runs if run.sealed}
    for run in runs:
        run_id, host = run.id, run.summary.host
        if run.ended or run_id in sealed:
            continue
        if run.is_live and run_id in told:
            say(f"{run_id}: a process works on it; it is left alone.")
        elif not run.is_live:
            say(
                f"{run_id}: its process on {host} may be gone, which cannot be told from here; if "
                f"it is, say 'runrecord reap {run_id}', or 'runrecord reap --host {host}' for all."
            )
