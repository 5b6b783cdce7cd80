"""The trials of a study: Optuna chooses params, Ray places trials, each is a clone and `dvc repro`.

`run_study` is the driver's side, `run_trial` that of a worker, wherever Ray starts it.
"""

import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from runrecord.dvc.cache import bring, share_cache
from runrecord.dvc.stages import is_related, stages_of, tracked_by_dvc, value_in
from runrecord.errors import UserError
from runrecord.files import write_atomic
from runrecord.git.commands import GitFailed, git, top_of
from runrecord.git.patch import check_out
from runrecord.provenance.environment import STUDY_TAGS, changes_numbers
from runrecord.record.events import START, Logged, RecordRefused, read_start
from runrecord.record.reader import Growing, Record, files_in
from runrecord.run.process import GRACE, Terminated, end_program, raise_on_signals, stop_with_parent
from runrecord.run.start import WHY
from runrecord.safety.text import clause, reason
from runrecord.store.runs import held, lock_of, run_dirs, state_folder
from runrecord.sweep.study import Definition, Outcome, Study, Value, experiment_of, set_params

if TYPE_CHECKING:
    from ray import ObjectRef

_OBJECTS = 80_000_000  # bytes of Ray's object store: tasks are small
_TRIES = 3  # times that a trial is tried again whose worker died, or was killed for memory
_NO_MEMORY = "its machine ran out of memory each time; lower --jobs, or raise --cpus"
_LOOK = 0.5  # seconds between two looks at what trials reached, and at whether one is given up
_PATIENCE = 60.0  # seconds that a run which was told to stop may take to end
_OF_DVC = (":(glob)**/dvc.lock", ":(glob)**/?*.dvc")


@dataclass(frozen=True)
class Task:
    """All that a worker needs to know of a trial. Paths are the same on all machines."""

    root: Path
    """Of the main repository."""
    folder: Path
    """For the study's workers."""
    commit: str
    patch: bytes
    locks: Mapping[str, bytes]
    """DVC's lock files as they are in the main repository, where they are not the commit's."""
    targets: tuple[str, ...]
    """The stages that make the metric."""
    definition: Definition
    environment: Mapping[str, str]
    """Variables that it has wherever it runs."""
    study: str
    run: str = ""
    """The id of the study's own run."""
    number: int = 0
    params: Mapping[str, Value] = field(default_factory=dict)

    @property
    def experiment(self) -> str:
        """The name of the trial's experiment, which begins the names of its runs."""
        return experiment_of(self.study, self.number)

    @property
    def why(self) -> Path:
        """The file by which the study gives the trial up; it says why."""
        return self.folder / f"{self.experiment}.given-up"


def task_of(root: Path, study: Study, commit: str, patch: bytes, targets: tuple[str, ...]) -> Task:
    """What all trials of a study have in common.

    Raises:
        UserError: Git does not know who makes commits here.
    """
    folder = study.folder / "workers"
    folder.mkdir(exist_ok=True)
    try:
        identity = git(root, "var", "GIT_COMMITTER_IDENT").decode(errors="replace")
    except GitFailed:
        raise UserError(
            "Git does not know who you are, and each trial is a commit; run "
            "'git config --global user.name NAME' and 'git config --global user.email ADDRESS'."
        ) from None
    name, _, rest = identity.partition(" <")
    address = rest.partition(">")[0]
    changed = ("ls-files", "-z", "--modified", "--others", "--exclude-standard", "--", *_OF_DVC)
    locks = [os.fsdecode(name) for name in git(root, *changed).split(b"\0") if name]
    return Task(
        root=root.resolve(),
        folder=folder.resolve(),
        commit=commit,
        patch=patch,
        locks={name: (root / name).read_bytes() for name in locks if (root / name).is_file()},
        targets=targets,
        definition=study.definition,
        study=study.name,
        environment={
            variable: text
            for variable, text in os.environ.items()
            if changes_numbers(variable) or variable.startswith("MLFLOW_")
        }
        # Clones have no settings of the main repository's.
        | {f"GIT_{role}_NAME": name for role in ("AUTHOR", "COMMITTER")}
        | {f"GIT_{role}_EMAIL": address for role in ("AUTHOR", "COMMITTER")},
    )


def run_trial(task: Task) -> Outcome:
    """Run a trial to its end, whatever that is."""
    try:
        if not task.folder.is_dir():
            raise UserError(
                f"{socket.gethostname()} does not see {task.folder}; keep the repository on a disk "
                "that all machines of the sweep have at the same path"
            )
        _wait_for_earlier(task)
        if task.why.exists():  # an earlier worker died before it could say so
            return Outcome("PRUNED")
        with tempfile.TemporaryDirectory(dir=task.folder, ignore_cleanup_errors=True) as place:
            return _run(task, Path(place) / "repository", Path(place) / "log")
    except (UserError, OSError, RecordRefused) as error:
        return Outcome("FAIL", error=reason(error))


def _run(task: Task, clone: Path, log: Path) -> Outcome:
    checkout = clone / task.root.relative_to(top_of(task.root).resolve())
    check_out(task.root, task.commit, task.patch, clone)
    new = _untracked(checkout)
    for name, content in task.locks.items():  # DVC's cache has what these name
        if name.endswith(".lock") or not (checkout / name).exists():
            (checkout / name).write_bytes(content)
    share_cache(task.root, checkout)
    set_params(checkout, task.params)
    bring(checkout, _needed(checkout, task.targets))
    if _dvc(task, checkout, log, "repro", *task.targets):
        if task.why.exists():
            _wait_for_earlier(task)
            return Outcome("PRUNED")
        ends = [Record(files_in(folder)).end for _, folder in runs_of(task, [task.number])]
        failed = [end.message for end in ends if end and end.status == "FAILED"]
        return Outcome("FAIL", error=(failed or [""])[-1] or _said_in(log))
    file, metric = task.definition.file, task.definition.metric
    value = value_in(checkout / file, metric)
    if not math.isfinite(value):
        raise UserError(f"{file}: {metric} is {value}")
    new += _untracked(checkout, file)
    more = [option for name in new for option in ("--include-untracked", name)]
    save = ("exp", "save", "--force", "--name", task.experiment, *more, *task.targets)
    if _dvc(task, checkout, log, *save):
        raise UserError(f"'dvc exp save' fails ({_said_in(log)})")
    ref = experiment_ref(task.commit, task.experiment)
    with held(state_folder(task.root) / "studies.lock"):  # two fetches at once disturb each other
        git(task.root, "fetch", "--quiet", "--no-tags", str(clone), f"+{ref}:{ref}")
    return Outcome("COMPLETE", value)


def experiment_ref(commit: str, experiment: str) -> str:
    """Where Git has an experiment of DVC's."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{experiment}"


def _dvc(task: Task, checkout: Path, log: Path, *command: str) -> int:
    """Run a command of DVC's, which ends with this process and where its trial is given up.

    Returns its exit status.
    """
    with (
        log.open("wb") as written,
        subprocess.Popen(
            [sys.executable, "-m", "dvc", *command],
            cwd=checkout,
            env=environment_of(task),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=stop_with_parent,  # Ray ends its workers, and not what they began
        ) as process,
    ):
        try:
            while process.poll() is None and not (command[0] == "repro" and task.why.exists()):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK)
        finally:
            end_program(process, partial(os.killpg, process.pid))
    return process.returncode


def _said_in(log: Path) -> str:
    """What DVC said last."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.casefold().startswith("error: ")]
    return clause((errors or [line for line in lines if line.strip()] or [""])[-1])


def environment_of(task: Task) -> dict[str, str]:
    """Variables of a stage: those that change numbers are the driver's, whatever Ray makes them."""
    mine = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("DVC_", "GIT_", "RAY_")) and not changes_numbers(name)
    }
    return {
        **mine,
        **task.environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{mine.get('PATH', '')}",
        "DVC_ROOT": str(task.root),
        "DVC_EXP_NAME": task.experiment,
        "DVC_EXP_BASELINE_REV": task.commit,
        "DVC_SITE_CACHE_DIR": str(task.folder / "site-cache"),
        WHY: str(task.why),
        STUDY_TAGS["study"]: task.study,
        STUDY_TAGS["study.run"]: task.run,
        STUDY_TAGS["study.trial"]: str(task.number),
    }


def _needed(checkout: Path, targets: Sequence[str]) -> set[str]:
    """What `dvc repro` needs to be there: tracked data, and outs that it would else make again."""
    stages, tracked, names = stages_of(checkout), tracked_by_dvc(checkout), [*targets]
    for name in names:
        deps = stages[name].deps
        makers = (
            other
            for other, stage in stages.items()
            if any(is_related(out, dep) for out in stage.outs for dep in deps)
        )
        names += [other for other in makers if other not in names]
    read = {dep for name in names for dep in stages[name].deps}
    data = {path for path in read if any(is_related(path, one) for one in tracked)}
    return data | {out for name in names for out in stages[name].persistent}


def runs_of(task: Task, numbers: Collection[int]) -> Iterator[tuple[int, Path]]:
    """The folders of those trials' runs in the run store, with the trial's number."""
    trials = {experiment_of(task.study, number): number for number in numbers}
    for folder in run_dirs(task.root):
        if folder.name.startswith(tuple(trials)):
            with suppress(ValueError, OSError):  # it is being written, or is damaged
                tags = read_start((folder / START).read_bytes()).tags
                if (experiment := tags.get("dvc.experiment", "")) in trials:
                    yield trials[experiment], folder


def _wait_for_earlier(task: Task) -> None:
    """Let a run of this trial end whose worker is gone: its checkpoint is free then."""
    for _, folder in runs_of(task, [task.number]):
        with suppress(OSError):  # a disk without locks
            try:
                lock_of(folder).acquire(timeout=_PATIENCE).lock.release()
            except Timeout:
                raise UserError(f"{folder.name} still runs, without its worker; end it") from None


def _untracked(checkout: Path, *names: str) -> list[str]:
    """New files, of those or of all, that Git does not ignore."""
    paths = [f":(literal){name}" for name in names]
    listed = git(checkout, "ls-files", "-z", "--others", "--exclude-standard", "--", *paths)
    return os.fsdecode(listed).split("\0")[:-1]


def run_study(
    study: Study,
    task: Task,
    count: int,
    jobs: int | None,
    needs: Mapping[str, float],
    ended: Callable[[int], None],
) -> None:
    """Run the trials that a study lacks.

    Args:
        study: whose trials they are.
        task: what they have in common.
        count: trials of the whole study.
        jobs: trials at once; None for as many as a cluster has room for, and one without one.
        needs: of Ray's `CPU` and `GPU`, what a trial takes.
        ended: called with each trial's number.

    Raises:
        UserError: Ray does not start, or its cluster does not answer.
    """
    with _ray_at_work(jobs, needs) as most:
        import ray

        raise_on_signals(instead=True)  # Ray has handlers of its own
        start = ray.remote(run_trial).options(
            num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_retries=_TRIES
        )
        pending: dict[ObjectRef[Outcome], int] = {}
        missing, read = study.missing(count), dict[Path, Growing]()
        try:
            while True:
                while len(pending) < most and (wanted := next(missing, None)):
                    number, params = wanted[0], study.ask(*wanted)
                    ref = start.remote(replace(task, number=number, params=params))
                    pending[ref] = number
                if not pending:
                    return
                done, _ = ray.wait([*pending], timeout=_LOOK)
                if study.definition.prune:
                    _give_up_hopeless(study, task, pending.values(), read)
                for ref in done:
                    number = pending.pop(ref)
                    study.tell(number, _outcome(ref))
                    ended(number)
        except (KeyboardInterrupt, SystemExit) as stop:
            for ref in pending:
                ray.cancel(ref, force=False)
            ray.wait([*pending], num_returns=len(pending), timeout=2 * GRACE)
            if isinstance(stop, KeyboardInterrupt | Terminated):
                raise
            raise Terminated(signal.SIGTERM) from None  # Ray makes a SystemExit of its own of ours


@contextmanager
def _ray_at_work(jobs: int | None, needs: Mapping[str, float]) -> Iterator[int]:
    """Ray: the cluster of `RAY_ADDRESS`, else one of this process; how many trials run at once."""
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no GPU asked for hides none
    os.environ.setdefault("RAY_task_oom_retries", str(_TRIES))  # else a trial is killed for ever
    how: dict[str, Any] = {"address": address}
    if not address:
        # A token of this process alone: Ray would write one into the home folder.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token_hex(32))
        cpus = max(1, math.ceil((jobs or 1) * needs["CPU"]))
        own = {"include_dashboard": False, "num_cpus": cpus, "object_store_memory": _OBJECTS}
        how = {"address": "local", **own}
    import ray  # which reads these variables

    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **how)
    except Exception as error:  # no more, of a machine that is too busy
        where = f"RAY_ADDRESS: the cluster {address} does not answer" if address else "Ray fails"
        raise UserError(f"{where} ({reason(error)}).") from None
    try:
        rooms = [_room(node["Resources"], needs) for node in ray.nodes() if node["Alive"]]
        if not any(rooms) and not (address and jobs):  # else the cluster may grow
            raise UserError(
                f"no machine of Ray's has {needs['CPU']:g} CPUs and {needs['GPU']:g} GPUs for "
                "a trial; ask for less with --cpus and --gpus."
            )
        yield jobs or (sum(rooms) if address else 1)
    finally:
        ray.shutdown()


def _room(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many trials a machine has room for at once."""
    return int(min((node.get(kind, 0) / one for kind, one in needs.items() if one), default=1))


def _outcome(ref: "ObjectRef[Outcome]") -> Outcome:
    import ray
    from ray.exceptions import OutOfMemoryError, RayError

    try:
        found: Outcome = ray.get(ref)
    except RayError as error:
        why = reason(getattr(error, "cause", error))
        return Outcome("FAIL", error=_NO_MEMORY if isinstance(error, OutOfMemoryError) else why)
    return found


def _give_up_hopeless(
    study: Study, task: Task, numbers: Collection[int], read: dict[Path, Growing]
) -> None:
    """Tell Optuna what trials reached since the last look, and their workers which it gives up."""
    metric = study.definition.metric
    for number, folder in runs_of(task, numbers):
        why = replace(task, number=number).why
        with suppress(OSError, ValueError):  # its record cannot be read
            for event in read.setdefault(folder, Growing(folder)).new_events():
                if not isinstance(event, Logged) or metric not in event.metrics:
                    continue
                value, at = event.metrics[metric], event.step
                if study.is_hopeless(number, at, value) and not why.exists():
                    text = (
                        f"{metric} was {value:.6g} at epoch {at}, worse than what most trials "
                        "of the study had there"
                    )
                    write_atomic(why, text.encode())
