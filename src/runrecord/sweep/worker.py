"""One trial, where Ray places it: a clone, the stage, its experiment, and what is to come home."""

import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from filelock import Timeout

from runrecord.dvc.cache import bring
from runrecord.dvc.params import share_cache, value_in
from runrecord.dvc.stages import is_related, stages_of, tracked_by_dvc
from runrecord.errors import UserError
from runrecord.provenance.git import git
from runrecord.provenance.patch import check_out
from runrecord.record.events import Logged
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import EVENTS, LOCK, RecordRefused, read_line
from runrecord.record.view import view
from runrecord.run.process import end_program
from runrecord.run.start import WHY
from runrecord.safety.text import reason
from runrecord.store.catalog import sealed_records
from runrecord.store.locks import held
from runrecord.store.runs import lock_of, state_folder
from runrecord.sweep.space import set_params
from runrecord.sweep.study import Trial
from runrecord.sweep.study_record import curve_of, trial_folders
from runrecord.sweep.trial_clone import (
    Dvc,
    Task,
    environment_of,
    is_home,
    own_folder,
    received,
    workplace,
)

_PART = 0.5  # seconds between two looks at what a trial has reached
_PATIENCE = 60.0  # seconds that a run which was told to stop may take to end


Post = Callable[[int, Mapping[int, float]], bool]
"""Says what a trial has reached, by its number and epochs; has it been given up?"""


@dataclass(frozen=True)
class Outcome:
    """What became of a trial, and of another machine what is to come home."""

    trial: Trial
    code: bytes | None = None
    """Its experiment, as a bundle of Git's."""
    records: Mapping[str, Mapping[str, bytes]] | None = None
    """Those that are in no out: of runs that did not finish."""


def run_trial(task: Task, code: bytes, post: Post | None) -> Outcome:
    """Run a trial to its end, whatever that is.

    Args:
        task: it.
        code: a bundle of Git's, for a machine that does not see the main repository.
        post: how the study hears of it, where it may give trials up.
    """
    try:
        return _run(task, code, post)
    except (UserError, OSError, RecordRefused) as error:
        return Outcome(replace(task.trial, state="FAIL", error=reason(error)))


def _run(task: Task, code: bytes, post: Post | None) -> Outcome:
    home = is_home(task)
    base = Path(task.folder) if home else own_folder() / task.proof
    if not home and not task.has_remote:
        raise UserError(
            f"this machine does not see {task.root}, and the project has no default DVC remote to "
            "bring results home by; add one with 'dvc remote add --default'"
        )
    for name, address in task.remotes.items() if not home else ():
        if address.startswith("/") and not Path(address).is_dir():
            raise UserError(f"the DVC remote {name} is {address}, which this machine does not see")
    place = workplace(base)
    source = Path(task.root) if home else received(base, code)
    clone = place / "repository"
    checkout = clone / task.below
    root = Path(task.root) if home else checkout
    _wait_for_earlier(root, task.experiment)
    if clone.exists():
        git(clone, "clean", "--quiet", "-ffdx")  # what a trial leaves is none of the next one's
    check_out(source, task.commit, task.patch, clone)
    for key, text in zip(("user.name", "user.email"), task.person, strict=True):
        git(clone, "config", key, text)
    new = _untracked(checkout)
    for name, content in task.locks.items() if home else ():  # DVC's cache has what these name
        if name.endswith(".lock") or not (checkout / name).exists():
            (checkout / name).write_bytes(content)
    cache = task.cache if home else str(base / "cache")
    share_cache(checkout, cache, task.remotes, Path(task.root) if home else None)
    set_params(checkout, task.trial.params)
    why = place / "why"
    why.unlink(missing_ok=True)
    environment = {
        **environment_of(task),
        "DVC_ROOT": str(root),
        "DVC_EXP_NAME": task.experiment,
        "DVC_EXP_BASELINE_REV": task.commit,
        "DVC_SITE_CACHE_DIR": str(base / "site-cache"),
        WHY: str(why),
    }
    log = base / "logs" / f"{task.experiment}.txt"
    log.parent.mkdir(exist_ok=True)
    dvc = Dvc(checkout, environment, log)
    try:
        if home:
            bring(checkout, _wanted(checkout, task.targets))
        pull = [] if home else ["--pull"]
        with dvc.started("repro", *pull, *task.targets) as process:
            _follow(process, task, root, why, post)
        trial = _with_runs(task, root, checkout, bool(post))
        if process.returncode:
            ended = replace(trial, state="FAIL", error=trial.error or dvc.said())
            if why.exists():
                ended = replace(trial, state="PRUNED")
            outcome = Outcome(ended, records=None if home else _files(root, task))
            shutil.rmtree(clone, ignore_errors=True)  # DVC may have been stopped in the middle
            return outcome
        value = value_in(checkout / task.file, task.metric)
        if not math.isfinite(value):
            raise UserError(f"{task.file}: {task.metric} is {value}")
        done = replace(trial, state="COMPLETE", value=value, error="")
        new += _untracked(checkout, task.file)
        more = [option for name in new for option in ("--include-untracked", name)]
        dvc.run("exp", "save", "--force", "--name", task.experiment, *more, *task.targets)
        if home:
            fetch(root, clone, task.commit, task.experiment)
            return Outcome(done)
        dvc.run("push", "--with-deps", *task.targets)
        return Outcome(done, _bundle(clone, task))
    except BaseException:
        shutil.rmtree(clone, ignore_errors=True)  # the next trial begins with a new one
        raise


def _wanted(checkout: Path, targets: Sequence[str]) -> set[str]:
    """What `dvc repro` needs to be there: tracked data, and outs that it would else make again."""
    stages = stages_of(checkout)
    tracked, needed = tracked_by_dvc(checkout), [*targets]
    for name in needed:
        deps = stages[name].deps if name in stages else ()
        makers = (
            other
            for other, stage in stages.items()
            if any(is_related(out, dep) for out in stage.outs for dep in deps)
        )
        needed += [other for other in makers if other not in needed]
    used = [stages[name] for name in needed if name in stages]
    read = {dep for stage in used for dep in stage.deps}
    return {path for path in read if any(is_related(path, one) for one in tracked)} | {
        out for stage in used if stage.persistent for out in stage.outs
    }


def _wait_for_earlier(root: Path, experiment: str) -> None:
    """Let a run of this trial end whose worker is gone: its checkpoint is free then.

    Raises:
        UserError: it does not.
    """
    for folder in trial_folders(root, experiment):
        with suppress(OSError):  # a disk without locks
            try:
                lock_of(folder).acquire(timeout=_PATIENCE).lock.release()
            except Timeout:
                raise UserError(f"{folder.name} still runs, without its worker; end it") from None


def _follow(
    process: "subprocess.Popen[bytes]", task: Task, root: Path, why: Path, post: Post | None
) -> None:
    """Wait for the stages' end; end them where the study gives the trial up."""
    curve: dict[int, float] = {}
    read: dict[str, int] = {}
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PART)
        if post is None:
            continue
        new = dict(_news(root, task, read))
        curve |= new
        if post(task.trial.number, new):
            why.write_text(_why_given_up(task.metric, curve))
            end_program(process, partial(os.killpg, process.pid))
            _wait_for_earlier(root, task.experiment)


def _why_given_up(metric: str, curve: Mapping[int, float]) -> str:
    if not curve:  # its worker died, and this machine has no record of what it had reached
        return "the study had given it up before it was begun again"
    return (
        f"{metric} was {curve[max(curve)]:.6g} at epoch {max(curve)}, worse than what most trials "
        "of the study had there"
    )


def _news(root: Path, task: Task, read: dict[str, int]) -> Iterator[tuple[int, float]]:
    """The metric by epoch, as far as it is on record since it was looked for last.

    Args:
        root: of the repository with the run store.
        task: the trial's.
        read: the bytes of each record's events that were read; brought up to date.
    """
    for folder in trial_folders(root, task.experiment):
        with suppress(FileNotFoundError), (folder / EVENTS).open("rb") as lines:
            lines.seek(read.setdefault(folder.name, 0))
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                read[folder.name] += len(line)
                event = read_line(line)
                if isinstance(event, Logged) and task.metric in event.metrics:
                    yield event.step, event.metrics[task.metric]


def _with_runs(task: Task, root: Path, checkout: Path, followed: bool) -> Trial:
    """The trial, with what its runs' records tell; the metric by epoch where it is followed."""
    folders = trial_folders(root, task.experiment)
    records = [Record(files_in(folder)) for folder in folders or sealed_records(checkout)]
    if not folders:  # DVC had the results of earlier runs
        records = [one for one in records if one.start.stage in task.targets]
    curve: dict[int, float] = {}
    for record in records if followed else ():
        curve |= curve_of(view(record), task.metric)
    end = records[-1].end if records else None
    return replace(
        task.trial,
        runs=tuple(record.start.id for record in records),
        curve=curve,
        error=end.message if end and end.status == "FAILED" else "",
    )


def _untracked(checkout: Path, *names: str) -> list[str]:
    """New files, of those or of all, that Git does not ignore."""
    paths = [f":(literal){name}" for name in names]
    listed = git(checkout, "ls-files", "-z", "--others", "--exclude-standard", "--", *paths)
    return os.fsdecode(listed).split("\0")[:-1]


def fetch(root: Path, source: Path, commit: str, experiment: str) -> None:
    """Bring an experiment home, one at a time: Git's refs are not for several at once."""
    ref = experiment_ref(commit, experiment)
    with held(state_folder(root) / "studies.lock"):
        git(root, "fetch", "--quiet", "--no-tags", str(source), f"+{ref}:{ref}")


def experiment_ref(commit: str, experiment: str) -> str:
    """Where Git has an experiment of DVC's."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{experiment}"


def _bundle(clone: Path, task: Task) -> bytes:
    ref = experiment_ref(task.commit, task.experiment)
    return git(clone, "bundle", "create", "--quiet", "-", ref, f"^{task.commit}")


def _files(root: Path, task: Task) -> dict[str, dict[str, bytes]]:
    """The files of the records of a trial's runs, by the runs' ids."""
    return {
        folder.name: {
            name: path.read_bytes() for name, path in files_in(folder).items() if name != LOCK
        }
        for folder in trial_folders(root, task.experiment)
    }
