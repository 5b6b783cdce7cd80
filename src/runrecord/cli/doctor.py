"""`runrecord doctor`: is everything as it should be, and if not, what to do?"""

import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NoReturn

from runrecord.cli.console import note
from runrecord.dvc.cache import missing_outs, remote_state
from runrecord.dvc.stages import stages_of
from runrecord.errors import RunFailed, UserError
from runrecord.git.commands import OutsideGit, commit_of, git
from runrecord.git.patch import describe_code
from runrecord.project import Project, load_project, repo_root
from runrecord.record.reader import Record, files_in
from runrecord.safety.text import reason, shown
from runrecord.store.catalog import all_runs, newest_of_each, sealed_records
from runrecord.store.runs import run_dirs
from runrecord.trackers.mlflow.store import tracking_uri
from runrecord.trackers.player import Store


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
