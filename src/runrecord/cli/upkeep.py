"""`runrecord reap` closes the runs whose process is gone; `runrecord gc` removes old ones."""

import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from runrecord.cli.console import Report, tell, tell_failure
from runrecord.dvc.cache import known_records
from runrecord.errors import UserError
from runrecord.files import sha256
from runrecord.project import repo_root
from runrecord.record.events import EVENTS, LOCK, START, Files, RecordRefused
from runrecord.record.reader import Record, files_in
from runrecord.resume.checkpoints import folders_of
from runrecord.store.catalog import RecordedRun, all_runs, newest_of_each
from runrecord.store.runs import lock_of, state_folder
from runrecord.trackers.mlflow.store import Noted, Notes
from runrecord.trackers.player import Store, close_dead_runs, sync_lock
from runrecord.trackers.tensorboard import shown_at

_DAY = 86_400_000  # milliseconds


def reap(names: Sequence[str] = (), host: str | None = None) -> None:
    """Close as KILLED every run whose process is gone, in its record and in MLflow.

    Of that, a run of another machine leaves doubt: it is closed if a person says that it is gone,
    by its name or its host's. Live runs are left alone.

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
        done = report.each("MLflow", stale, Store(root).play) if stale else 0
        print(f"{done} closed in MLflow")
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
            tell(f"{run_id}: a process works on it; it is left alone.")
        elif not run.is_live:
            tell(
                f"{run_id}: its process on {host} may be gone, which cannot be told from here; if "
                f"it is, say 'runrecord reap {run_id}', or 'runrecord reap --host {host}' for all."
            )


@dataclass(frozen=True)
class _Removable:
    """A run of which DVC keeps a sealed record."""

    run_id: str
    folders: tuple[Path, ...]
    """Its record's is the first."""
    copy: str
    """Where the sealed record is."""

    @property
    def size(self) -> int:
        """Bytes that removing them frees: a file with a second name frees none."""
        files = [path.lstat() for folder in self.folders for path in folder.rglob("*")]
        return sum(one.st_blocks * 512 for one in files if one.st_nlink == 1)


def gc(keep: int | None, days: int | None, yes: bool) -> None:
    """Remove (without `yes`: list) the runs whose sealed record DVC keeps.

    Of each stage the newest `keep` stay, or those of the last `days`, and the newest in any case;
    so does any that goes on.

    Raises:
        UserError: DVC cannot read its files.
    """
    root = repo_root()
    with sync_lock(root):
        old = _old(root, keep, days)
        found = sorted(_removable(root, old), key=lambda one: one.run_id)
        for one in found:
            tell(f"{one.run_id}: {_mib(one.size)}; its sealed record is {one.copy}")
        total = _mib(sum(one.size for one in found))
        if kept := len(old) - len(found):
            tell(f"{kept} older runs stay: no dvc.lock, here or in Git, names an equal record.")
        if not yes:
            print(f"{len(found)} runs, {total}, can go: say --yes to remove them.")
            return
        count = _remove(root, found)
        print(f"{count} runs, {total}, removed: 'runrecord sync --all' finds them.")
        if count:
            print(
                "Their only copy is in DVC's cache or remote: clean those with 'dvc gc "
                "--all-commits --all-experiments', never with 'dvc gc --workspace' alone."
            )


def _old(root: Path, keep: int | None, days: int | None) -> list[RecordedRun]:
    """The runs of the store that have ended and are not to be kept."""
    runs = [run for run in all_runs(root, tell_failure) if not run.sealed]
    runs.sort(key=lambda run: run.summary.time, reverse=True)
    since = time.time_ns() // 1_000_000 - days * _DAY if days is not None else None
    newer, old = Counter[str](), []
    for run in runs:
        count = newer[run.summary.stage]
        wanted = run.summary.time >= since if since is not None else count < (keep or 1)
        if count and not wanted and run.ended and not run.is_live:
            old.append(run)
        newer[run.summary.stage] += 1
    return old


def _removable(root: Path, old: Collection[RecordedRun]) -> Iterator[_Removable]:
    """The runs of which DVC keeps an equal record, each once."""
    left = {run.id: run for run in old}
    for label, files in known_records(root) if left else ():
        try:
            copy = Record(files or {})
            run = left.get(copy.start.id)
            if files is None or run is None or not _equal(run, copy, files):
                continue
        except (RecordRefused, OSError):
            continue  # it is none, or damaged: no copy
        del left[copy.start.id]
        folders = (Path(run.label), shown_at(root, copy.start), *folders_of(root, run.id))
        yield _Removable(copy.start.id, tuple(filter(Path.is_dir, folders)), label)


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


def _remove(root: Path, found: Collection[_Removable]) -> int:
    """Remove them, each at once; how many."""
    gone = state_folder(root) / "gone"
    count = 0
    for one in found:
        try:
            with lock_of(one.folders[0]).acquire(blocking=False):
                shutil.rmtree(gone, ignore_errors=True)
                gone.mkdir()
                for number, folder in reversed([*enumerate(one.folders)]):  # its record goes last
                    folder.rename(gone / str(number))
        except Timeout:
            tell(f"{one.run_id}: it goes on again, and stays.")
        except OSError as error:
            tell_failure(one.run_id, error)
        else:
            count += 1
    shutil.rmtree(gone, ignore_errors=True)
    return count


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
