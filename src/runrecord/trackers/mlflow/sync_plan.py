"""What a replay into MLflow comes to for a run that is there: told by its SQLite file alone."""

from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Literal

from runrecord.project import load_project
from runrecord.store.catalog import Run
from runrecord.store.files import sha256
from runrecord.store.runs import is_running, run_dir, state_folder
from runrecord.trackers.mlflow.artifacts import Shown
from runrecord.trackers.mlflow.reads import shown_in_file
from runrecord.trackers.mlflow.store import experiment_name, key_in_file, remember, remembered

Outcome = Literal["created", "completed", "already there", "removed there"]


def outcomes_in_file(root: Path, runs: Iterable[Run]) -> Mapping[str, Outcome] | None:
    """What a replay would come to if MLflow's SQLite file holds all of those runs, by their ids.

    None if it may not, or not views of them.
    """
    shown = shown_in_file(root)
    if shown is None or _views_of(root, shown) != _saved(root):
        return None
    gone = removed(root, key_in_file(root), shown)
    found: dict[str, Outcome] = {}
    for run in runs:
        outcome = outcome_of(shown, gone, run)
        if outcome is not None:
            found[run.told.id] = outcome
        elif not goes_on(root, run):
            return None
    return found


def goes_on(root: Path, run: Run) -> bool:
    """Does a process still work on it, or show what it has sealed?"""
    return run.goes_on or is_running(run_dir(root, run.told.id))


def removed(root: Path, key: str, shown: Mapping[str, Shown]) -> Set[str]:
    """The runs that an experiment showed once, and whoever deleted them had it forget.

    Those that it shows are noted first.
    """
    remember(root, key, shown)
    return remembered(root, key) - shown.keys()


def outcome_of(shown: Mapping[str, Shown], gone: Set[str], run: Run) -> Outcome | None:
    """Is all of that run there, or was it deleted there by a person? Neither: None."""
    found = shown.get(run.told.id)
    if found is None:
        return "removed there" if run.told.id in gone else None
    if found.start != run.told.time:
        return None
    whole = found.events >= run.told.length and found.status != "RUNNING" and found.has_files
    return "already there" if found.deleted or whole else None


def note_views(root: Path) -> None:
    """MLflow's saved views show what there is by now."""
    shown = shown_in_file(root)
    if shown is not None:
        with suppress(OSError):  # where it is not whole, the next sync saves them again
            (state_folder(root) / "views").write_text(_views_of(root, shown))


def _views_of(root: Path, shown: Mapping[str, Shown]) -> str:
    """What MLflow's saved views depend on, as a digest."""
    project = load_project(root)
    better = sorted(project.better.items())
    settings = (experiment_name(root), project.curves, project.headline, project.params, better)
    return sha256(repr((settings, sorted(shown.items(), key=lambda one: one[0]))).encode())


def _saved(root: Path) -> str:
    """What `_views_of` said when views were saved last."""
    try:
        return (state_folder(root) / "views").read_text()
    except (OSError, UnicodeDecodeError):
        return ""
