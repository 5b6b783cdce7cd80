"""`runrecord sync`, `reap`, `gc` and `doctor`: all that keeps the store and its viewers right."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import NoReturn

from filelock import Timeout

from runrecord.cli.console import Report, note, show_table, tell, tell_failure
from runrecord.cli.runs import find_record
from runrecord.dvc.cache import known_records, missing_outs, remote_state
from runrecord.dvc.stages import stages_of
from runrecord.errors import RunFailed, UserError
from runrecord.files import sha256
from runrecord.git.commands import OutsideGit, commit_of, git
from runrecord.git.patch import describe_code
from runrecord.project import Project, load_project, repo_root
from runrecord.record.events import EVENTS, LOCK, START, Files, RecordRefused
from runrecord.record.reader import Record, files_in
from runrecord.resume.checkpoints import folders_of
from runrecord.safety.text import reason, shown
from runrecord.store.catalog import RecordedRun, all_runs, newest_of_each, read_runs, sealed_records
from runrecord.store.runs import lock_of, run_dirs, state_folder
from runrecord.trackers.mlflow.store import is_unchanged, last_look, tracking_uri
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


def doctor() -> None:
    """Check what the pipeline stands on, a line each.

    Raises:
        RunFailed: something needs doing.
    """
    checks = list[dict[str, object]]()
    note(checks=checks)
    for name, check in _checks(repo_root()).items():
        try:
            right, told = True, shown(check())
        except Exception as error:
            right, told = False, f"{reason(error)}."
        print(f"{'✓' if right else '✗'} {name}: {told}")
        checks.append({"check": name, "ok": right, "told": told})
    if problems := sum(not one["ok"] for one in checks):
        raise RunFailed(f"{problems} of the above need doing.")


def _checks(root: Path) -> dict[str, Callable[[], str]]:
    project, store = load_project(root), cache(partial(Store, root))
    of_root = {**project.checks, "DVC cache": _cache, "DVC remote": _remote, "commits": _commits}
    return {
        "Git": partial(_git, root, project),
        "tracking store": lambda: _tracking_store(store()),
        "run store": lambda: _run_store(store()),
        **{name: partial(check, root) for name, check in of_root.items()},
    }


def _git(root: Path, project: Project) -> str:
    try:
        commit = commit_of(root, "HEAD")
    except OutsideGit:
        raise UserError(
            f"{root} is in no Git repository: no run here can be rebuilt; run 'git init' and commit"
        ) from None
    if commit is None:
        raise UserError("the repository has no commit yet: no run here can be rebuilt; commit")
    generated = [name for stage in stages_of(root).values() for name in stage.outs]
    _, _, trouble = describe_code(root, project.code, generated)
    if trouble:
        raise UserError(trouble.rstrip("."))
    changed = len(git(root, "status", "--porcelain").splitlines())
    return f"commit {commit[:10]}, {changed} uncommitted changes"


def _tracking_store(store: Store) -> str:
    store.write_probe()
    return f"{tracking_uri(store.root)}: reachable and writable, {len(store.shown)} runs"


def _run_store(store: Store) -> str:
    def refuse(label: str, error: Exception) -> NoReturn:
        raise UserError(f"{label}: {reason(error)}; move that folder away")

    runs = newest_of_each((run for run in all_runs(store.root, refuse) if not run.sealed), refuse)
    behind = [run for run in runs if not store.holds(run) and not run.is_live]
    if behind:
        raise UserError(f"MLflow lacks {len(behind)} of {len(runs)} runs; run 'runrecord sync'")
    files = (file for folder in run_dirs(store.root) for file in folder.rglob("*"))
    size = sum(file.lstat().st_size for file in files)
    return f"{len(runs)} runs, {size / 1e6:.0f} MB, all in MLflow"


def _cache(root: Path) -> str:
    folder, missing, count = missing_outs(root)
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(place, os.W_OK):
        raise UserError(f"{place} cannot be written; correct its permissions")
    if missing:
        raise UserError(
            f"it lacks {len(missing)} of {count} outs ({', '.join(missing)}); "
            "run 'dvc pull' or 'dvc repro'"
        )
    return f"{folder}: writable, all {count} outs of dvc.lock are in it"


def _remote(root: Path) -> str:
    none = "none", "what this machine made lies on it alone ('dvc remote add' names one)"
    return ": ".join(remote_state(root) or none)


def _commits(root: Path) -> str:
    """The commits of the workspace's records must be ones that a clone has."""
    starts = [Record(files_in(folder)).start for folder in sealed_records(root)]
    wanted = {start.tags["git.commit"]: start.id for start in starts if "git.commit" in start.tags}
    try:
        listed = git(root, "rev-list", "--branches", "--tags", "--remotes").decode().split()
    except OutsideGit:
        listed = []
    if lost := sorted(wanted.keys() - {*listed}):
        keep = f"run 'git tag NAME {lost[0][:10]}' and push that"
        gone = "it is gone here too; 'runrecord verify' looks for a commit with the same files"
        raise UserError(
            f"no branch or tag holds {lost[0]}, of {wanted[lost[0]]}: a clone lacks it; "
            f"{keep if commit_of(root, lost[0]) else gone}"
        )
    return f"a branch or tag holds those of all {len(starts)} records here"
