"""`runrecord sync` shows runs, `reap` closes those whose process is gone, `gc` removes old ones."""

import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from runrecord.cli.console import Report, note, show_table, tell, tell_failure
from runrecord.cli.runs import find_record
from runrecord.dvc.cache import known_records
from runrecord.errors import UserError
from runrecord.files import sha256
from runrecord.project import repo_root
from runrecord.record.events import EVENTS, LOCK, START, Files, RecordRefused
from runrecord.record.reader import Record, files_in
from runrecord.resume.checkpoints import folders_of
from runrecord.store.catalog import RecordedRun, all_runs, newest_of_each, read_runs
from runrecord.store.runs import lock_of, state_folder
from runrecord.trackers.mlflow.store import is_unchanged, last_look
from runrecord.trackers.player import (
    Store,
    close_dead_runs,
    is_live,
    outcome_of,
    play_into,
    sync_lock,
)
from runrecord.trackers.tensorboard import TensorBoardSink, shown_at


def sync(
    everything: bool = False, tensorboard: bool = False, check: bool = False, name: str = ""
) -> None:
    """Make MLflow hold every run of the store and of the workspace's records, or that of `name`.

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
            record = find_record(root, name)
            known = [run for run in runs if run.id == record.start.id]
            runs = known or read_runs([(name, record.contents)], report.failed)
        ended = [run for run in newest_of_each(runs, report.failed) if run.ended]
        look = last_look(root)
        noted = {run.id: outcome_of(run, look.runs) for run in ended}
        unchanged = is_unchanged(root, look)
        nothing = unchanged and all(noted[run.id] or is_live(root, run) for run in ended)
        if nothing and not check and not name:
            report.each("MLflow", ended, lambda run: noted[run.id])
        else:
            store = Store(root)
            if name:
                for run in ended:
                    store.bring_back(run)
            report.each("MLflow", ended, lambda run: store.play(run, check))
            store.keep()
        print(report.summary())
        if report.counts["removed there"]:
            print("What was removed there stays away: 'runrecord sync RUN' brings a run back.")
        if tensorboard:
            report.each("TensorBoard", ended, lambda run: play_into(TensorBoardSink(root), run))
    report.conclude()


def reap(names: Sequence[str] = (), host: str | None = None) -> None:
    """Close as KILLED every run whose process is gone, in its record and, by `sync`, in MLflow.

    A run of another machine leaves doubt: it is closed if a person says that it is gone, by its
    name or its host's.

    Raises:
        UserError: a named run is not there; or, once records are closed, the tracking store is not.
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
        note(closed=[record.start.id for record in closed])
        sealed = {run.id for run in runs if run.sealed}
        for run in runs:
            if not run.ended and run.id not in sealed:
                _say_why_it_is_open(run, run.id in told)
    print(f"{len(closed)} runs closed")
    if closed:
        sync()
    report.conclude()


def _say_why_it_is_open(run: RecordedRun, told: bool) -> None:
    if not run.is_live:
        host = run.summary.host
        tell(
            f"{run.id}: its process on {host} may be gone, which cannot be told from here; if it "
            f"is, say 'runrecord reap {run.id}', or 'runrecord reap --host {host}' for all."
        )
    elif told:
        tell(f"{run.id}: a process works on it; it is left alone.")


def gc(keep: int, yes: bool) -> None:
    """Remove (without `yes`: list) the runs whose sealed record DVC keeps.

    Of each stage the newest `keep` stay, and any that goes on.

    Raises:
        UserError: DVC cannot read its files.
    """
    root = repo_root()
    gone = state_folder(root) / "gone"
    with sync_lock(root):
        shutil.rmtree(gone, ignore_errors=True)  # of an earlier one that was stopped
        old = _old(root, keep)
        found = sorted(_removable(root, old))
        rows = [(one, sum(map(_size, folders)), copy) for one, folders, copy in found]
        show_table("runs", rows, ("run", "bytes", "sealed record"))
        note(stay=len(old) - len(found), removed=0)
        total = f"{sum(size for _, size, _ in rows) / 2**20:.1f} MiB"
        if kept := len(old) - len(found):
            tell(f"{kept} older runs stay: no dvc.lock, here or in Git, names an equal record.")
        if not yes:
            print(f"{len(found)} runs, {total}, can go: say --yes to remove them.")
            return
        count = sum(_remove(gone, one, folders) for one, folders, _ in found)
        note(removed=count)
        print(f"{count} runs, {total}, removed: 'runrecord sync --all' finds them.")
        if count:
            print(
                "Their only copy is in DVC's cache or remote: clean those with 'dvc gc "
                "--all-commits --all-experiments', never with 'dvc gc --workspace' alone."
            )


def _old(root: Path, keep: int) -> list[RecordedRun]:
    """The runs of the store that have ended and are not to be kept."""
    runs = [run for run in all_runs(root, tell_failure) if not run.sealed]
    newer, old = Counter[str](), []
    for run in sorted(runs, key=lambda run: run.summary.time, reverse=True):
        newer[run.summary.stage] += 1
        if newer[run.summary.stage] > keep and run.ended and not run.is_live:
            old.append(run)
    return old


def _removable(
    root: Path, old: Collection[RecordedRun]
) -> Iterator[tuple[str, tuple[Path, ...], str]]:
    """The runs of which DVC keeps an equal record: each one's id, folders, and where that is.

    The record's folder is the first.
    """
    left = {run.id: run for run in old}
    for label, files in known_records(root) if left else ():
        with suppress(RecordRefused, OSError):  # it is none, or damaged: no copy
            copy = Record(files or {})
            run = left.get(copy.start.id)
            if files and run and _equal(run, copy, files):
                del left[run.id]
                folders = (Path(run.label), shown_at(root, copy.start), *folders_of(root, run.id))
                yield run.id, tuple(filter(Path.is_dir, folders)), label


def _equal(run: RecordedRun, copy: Record, files: Files) -> bool:
    """Has the copy all of the run, as it was? Its files are checked by their SHA-256."""
    own = files_in(Path(run.label))
    if run.id != Path(run.label).name or not own.keys() - {LOCK} <= files.keys():
        return False
    for _ in copy.events():
        pass
    return not copy.damaged and all(
        sha256(files[name]) == sha256(own[name]) for name in (START, EVENTS)
    )


def _remove(gone: Path, run_id: str, folders: Sequence[Path]) -> bool:
    """Remove a run at once, its record last, by way of `gone`; False if it stays."""
    try:
        with lock_of(folders[0]).acquire(blocking=False):
            gone.mkdir()
            for number, folder in reversed([*enumerate(folders)]):
                folder.rename(gone / str(number))
    except Timeout:
        tell(f"{run_id}: it goes on again, and stays.")
        return False
    except OSError as error:
        tell_failure(run_id, error)
        return False
    finally:
        shutil.rmtree(gone, ignore_errors=True)
    return True


def _size(folder: Path) -> int:
    """Bytes that removing it frees: a file with a second name frees none."""
    files = [path.lstat() for path in folder.rglob("*")]
    return sum(one.st_blocks * 512 for one in files if one.st_nlink == 1)
