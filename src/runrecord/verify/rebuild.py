"""Rebuilding a run from its record: the commit, the change, the data, then its stage once more."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from secrets import token_hex

from runrecord.dvc.lockfiles import states
from runrecord.dvc.stages import hash_paths, is_inside, is_related, stages_of, tracked_by_dvc
from runrecord.errors import UserError
from runrecord.git.commands import GitFailed, commit_of, top_of
from runrecord.git.patch import LEFT_OUT, check_out
from runrecord.provenance.environment import hash_outs, variables_of
from runrecord.record.events import COMMIT, START, RecordRefused, RunStarted
from runrecord.record.reader import Record, files_in
from runrecord.store.catalog import sealed_ids
from runrecord.store.runs import (
    EXECUTION,
    is_running,
    place_in,
    run_dir,
    run_dirs,
    state_folder,
    working_on,
)
from runrecord.verify.compare import differences, results_in
from runrecord.verify.stage import CannotRebuild, Work, is_of, run_command, run_stage

_NOT_INHERITED = ("DVC_", "GIT_", "MLFLOW_", "RUNRECORD_")
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # a rebuilt run is on record wherever verify runs


@dataclass(frozen=True)
class Rebuilt:
    """What came of rebuilding a run."""

    record: Record | None  # of its counterpart; None where the stage left other runs than then
    count: int  # of the runs that the stage left
    commit: str  # that the code is from
    unseen: tuple[str, ...]
    """Outs that no record tells of: outside the repository, or changed after the run had ended."""


def rebuild(root: Path, original: Record, folder: Path, own_packages: bool) -> Rebuilt:
    """Run a stage as it was run, in `folder`; the record of the new run lies there too.

    Nothing of it reaches the tracking store, and neither DVC's run cache nor a checkpoint is used.
    With `own_packages`, its virtual environment is made from the lock file of its commit.

    Raises:
        CannotRebuild: the commit, the change or the data cannot be had, or the stage fails.
    """
    start = original.start
    checkout, commit = _check_out(root, start, original.patch(), folder / "repository")
    search = Path(sys.executable).parent
    if own_packages:
        search = _install(checkout, folder / "environment")
    try:
        stages = stages_of(checkout)
    except UserError as error:
        raise CannotRebuild(str(error).rstrip(".")) from None
    if start.stage not in stages:
        raise CannotRebuild(f"its dvc.yaml has no stage '{start.stage}'")
    work = Work(root, original, checkout, commit, stages, _environment(start, checkout, search))
    work.restore(start.stage)
    run_stage(stages[start.stage], checkout, work.environment, start.tags.get("dvc.shell"))
    found = [Record(files_in(path)) for path in run_dirs(checkout)]
    again = [record for record in found if record.start.stage == start.stage]
    if not again:
        raise CannotRebuild(f"{start.stage} of that commit leaves no record where it belongs")
    own = counterparts([original, *others_of(root, start)], again)
    kept = start.id in sealed_ids(root) or "/files/md5/" in str(original.contents[START])
    if kept and "dvc.stage" in start.tags and not sealed_ids(checkout) & {x.start.id for x in own}:
        own = []  # what DVC keeps is the record of another run
    last = hash_outs(checkout, stages[start.stage])
    told = own[0].end.outs if own and own[0].end else {}
    changed = {name for name, _ in told.items() ^ last.items()}
    unseen = (*stages[start.stage].outside, *sorted(changed))
    return Rebuilt(own[0] if own else None, len(again), commit, unseen)


def others_of(root: Path, start: RunStarted) -> Iterator[Record]:
    """The other runs of the same execution of a stage, as far as the run store has them."""
    names = ("execution", "stage")
    own = [place_in(run_dir(root, start.id)).get(name) for name in names]
    for folder in run_dirs(root) if own[0] else ():
        if folder.name != start.id and [place_in(folder).get(name) for name in names] == own:
            with suppress(RecordRefused):
                yield Record(files_in(folder))


def counterparts(originals: Sequence[Record], again: Sequence[Record]) -> list[Record]:
    """The runs that can be the first of the original ones, its counterpart before others.

    They are the one of its number and those at the same time, of which each is that of one run.
    """
    start = originals[0].start
    near = {
        (one.start.number, other.start.number)
        for one, other in (*product(originals, originals), *product(again, again))
        if one is other
        or max(one.start.time, other.start.time)
        < min(one.last_sign_of_life, other.last_sign_of_life)
    }
    same = [one.start.number for one in again if one.start.command == start.command]
    if start.number == 1 and len(same) == 1:  # runs were not always numbered
        near.add((1, same[0]))
    own = [one for one in again if (start.number, one.start.number) in near]
    if len(own) < 2:
        return own
    facts = {one: results_in(one.events(files=False)) for one in (*originals, *again)}

    def unlike(pair: tuple[Record, Record]) -> tuple[float, ...]:
        was, now = (one.start for one in pair)
        by = [min(one.relative, 1.0) for one in differences(*map(facts.__getitem__, pair))]
        return was.command != now.command, sum(by), len(by), was.number != now.number

    pairs = product(originals, again)
    allowed = [(a, b) for a, b in pairs if (a.start.number, b.start.number) in near]
    found: dict[Record, Record] = {}
    for one, other in sorted(allowed, key=unlike):
        if one not in found and other not in found.values():
            found[one] = other
    return [found[originals[0]], *own] if originals[0] in found else []


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A folder that goes when it is done with; those of processes that were killed go too."""
    folders = state_folder(root) / "verify"
    for left in folders.glob("*/"):
        if not is_running(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = folders / token_hex(4)
    folder.mkdir(parents=True)
    try:
        with working_on(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another process verifies too
            folders.rmdir()


def _check_out(root: Path, start: RunStarted, patch: bytes, clone: Path) -> tuple[Path, str]:
    """The code of a run, in a clone: the folder in it that `root` is in its own repository.

    Also the commit that it is from: the run's own or, where that is not here, one whose files are
    those that the run read.
    """
    commit = start.tags.get("git.commit", "")
    if refused := start.tags.get("git.error"):
        raise CannotRebuild(f"its code was not recorded: {refused}")
    if not COMMIT.fullmatch(commit):
        raise CannotRebuild("it was run outside Git, so that its code is not known")
    if (left_out := start.tags.get("git.patch", "")).startswith(LEFT_OUT):
        raise CannotRebuild(f"its uncommitted change was {left_out}")
    try:
        checkout = clone / root.resolve().relative_to(top_of(root).resolve())
        if commit_of(root, commit) is None:
            return checkout, _check_out_equal(root, start, patch, clone, checkout)
        check_out(root, commit, patch, clone)
    except GitFailed as error:
        raise CannotRebuild(str(error)) from None
    return checkout, commit


def _check_out_equal(
    root: Path, start: RunStarted, patch: bytes, clone: Path, checkout: Path
) -> str:
    """Check out a commit in place of the run's: the newest that it could be of."""
    commits = [state.commit for state in states(root, *start.deps) if any(state.ids)]
    # The change may have been committed by then.
    for commit, change in product(filter(None, commits), {patch: 1, b"": 1}):
        with suppress(UserError):  # the change is of other files, or DVC cannot read it
            check_out(root, commit, change, clone)
            stages = stages_of(checkout)
            outs = [out for stage in stages.values() for out in stage.outs]
            outs += tracked_by_dvc(checkout)
            inside = filter(is_inside, start.deps)
            code = [path for path in inside if not any(is_related(path, out) for out in outs)]
            equal = hash_paths(checkout, code) == {path: start.deps[path] for path in code}
            stage = stages.get(start.stage)
            if stage and code and equal and is_of(start, stage, checkout):
                return commit
    raise CannotRebuild(
        f"its commit {start.tags['git.commit']} is not in this clone, nor one whose files, params "
        "and command are all those that it had; fetch it, if it is anywhere"
    )


def _install(checkout: Path, environment: Path) -> Path:
    """Make a virtual environment from the checkout's lock file; the folder of its programs."""
    lock = checkout / "requirements.lock"
    if not lock.exists():
        raise CannotRebuild("its commit has no requirements.lock to install from")
    programs = environment / "bin"
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--require-hashes"]
    pip += ["--disable-pip-version-check", "--requirement", str(lock)]
    for command in ([sys.executable, "-m", "venv", str(environment)], pip):
        run_command("--env", command, checkout, {**os.environ, "PIP_USER": "0"})
    return programs


def _environment(start: RunStarted, checkout: Path, search: Path) -> dict[str, str]:
    """Variables that change numbers as the run had them, unless a person sets them; all others."""
    mine = {
        key: text
        for key, text in os.environ.items()
        if not key.startswith(_NOT_INHERITED) and key not in _RANKS
    }
    return {
        **variables_of(start.tags),
        **mine,
        "PATH": f"{search}{os.pathsep}{os.environ.get('PATH', '')}",
        "DVC_ROOT": str(checkout),
        "RUNRECORD_SINKS": "off",
        EXECUTION: token_hex(8),
        "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",  # in the clone, for a script's own runs
    }
