"""One study from its start to its end: Optuna says what to try, Ray says where."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from runrecord.catalog import read_runs
from runrecord.dvc_cache import records_at
from runrecord.dvc_index import opened
from runrecord.errors import UserError
from runrecord.locks import held
from runrecord.process import GRACE, Terminated, raise_on_signals
from runrecord.provenance.environment import STUDY_TAGS, changes_numbers
from runrecord.provenance.git import Apart, git
from runrecord.record.reader import files_in
from runrecord.record.writer import place_files
from runrecord.run import Run
from runrecord.run_store import run_dir, state_folder
from runrecord.sweep.study import (
    Searcher,
    Trial,
    best_first,
    experiment_of,
    to_run,
)
from runrecord.sweep.study_record import Study, note, tags_of_trial
from runrecord.sweep.worker import Board, Outcome, experiment_ref, run_trial
from runrecord.sweep.workplace import PROOF, Task
from runrecord.sync import Store, has_store, sync_lock
from runrecord.text import reason

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

_LOOK = 0.5  # seconds between two looks at what trials have reached
_OBJECTS = 80_000_000  # bytes of Ray's object store: tasks are small
_TRIES = 3  # times that a trial is taken up again whose worker or node died
_FORWARDED = ("MLFLOW_",)


@dataclass(frozen=True)
class Resources:
    """What trials take."""

    jobs: int | None
    """How many run at once; None for as many as a cluster has room for, and one without one."""
    cpus: float
    """Of Ray's CPUs, a trial."""
    gpus: float


def run_study(
    root: Path,
    run: Run,
    study: Study,
    targets: tuple[str, ...],
    count: int,
    resources: Resources,
    told: Callable[[Trial], None],
) -> dict[int, Trial]:
    """Run the trials that a study lacks; all of its trials then.

    Args:
        root: of the main repository.
        run: the study's, which every outcome is put on record of.
        study: it.
        targets: the stages that make the metric.
        count: how many trials it is to have.
        resources: what they take.
        told: what became of each.

    Raises:
        UserError: Ray cannot be had.
    """
    folder = state_folder(root) / "studies" / study.name
    trials = dict(study.trials)
    with _folder(folder) as proof, _ray(resources.jobs or 1) as jobs_there:
        raise_on_signals()  # Ray has put its own in their place
        place = _Placing(root, study, targets, folder, proof, resources)
        searcher = Searcher(study.definition, trials.values())
        waiting = to_run(study.definition, study.trials, count)
        jobs = resources.jobs or jobs_there(resources)
        try:
            while place.fill(jobs, waiting, searcher, run) or place.pending:
                for number, epoch, value in place.news():
                    if searcher.is_hopeless(number, epoch, value):
                        place.give_up(number)
                for outcome in place.ended():
                    trial = _bring_home(root, study, outcome)
                    trials[trial.number] = trial
                    searcher.tell(trial)
                    _log(run, study, trials, trial)
                    told(trial)
        except (KeyboardInterrupt, Terminated):
            place.stop()
            raise
    return trials


class _Placing:
    """The trials that Ray has."""

    def __init__(
        self,
        root: Path,
        study: Study,
        targets: tuple[str, ...],
        folder: Path,
        proof: str,
        resources: Resources,
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._study = study
        self._base = _task(root, study, targets, folder, proof)
        alone = "RAY_ADDRESS" not in os.environ
        self._code = ray.put(b"" if alone else _bundle(root, study.commit))
        self._board: ActorHandle[Any] | None = None
        if study.definition.prune:
            node = ray.get_runtime_context().get_node_id()
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            self._board = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()
        self._start = ray.remote(_run).options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=_TRIES
        )
        self.pending: dict[ObjectRef[Outcome], Trial] = {}

    def fill(
        self,
        jobs: int,
        waiting: Iterator[tuple[int, Mapping[str, Any] | None]],
        searcher: Searcher,
        run: Run,
    ) -> bool:
        """Let as many trials run as may; was there one to start?"""
        started = False
        while len(self.pending) < jobs and (wanted := next(waiting, None)):
            trial = searcher.ask(*wanted)
            note(run, trial)
            tags = tags_of_trial(self._study, run.id, trial)
            own = {STUDY_TAGS[tag]: text for tag, text in tags.items()}
            task = replace(
                self._base,
                trial=trial,
                experiment=experiment_of(self._study.name, trial.number),
                environment={**self._base.environment, **own},
            )
            self.pending[self._start.remote(task, self._code, self._board)] = trial
            started = True
        return started

    def news(self) -> list[tuple[int, int, float]]:
        """What trials have reached since the last time: number, epoch, value."""
        import ray

        return ray.get(self._board.take.remote()) if self._board else []

    def give_up(self, number: int) -> None:
        """Have a trial stopped."""
        assert self._board is not None
        self._board.stop.remote(number)

    def ended(self) -> list[Outcome]:
        """The outcomes of those that ended, waited for a moment, or until there is one."""
        import ray
        from ray.exceptions import RayError

        done, _ = ray.wait([*self.pending], timeout=_LOOK)
        found = []
        for ref in done:
            trial = self.pending.pop(ref)
            try:
                found.append(ray.get(ref))
            except RayError as error:
                found.append(Outcome(replace(trial, state="FAIL", error=reason(error))))
        return found

    def stop(self) -> None:
        """Stop all, and wait until they have ended."""
        import ray

        for ref in self.pending:
            ray.cancel(ref, force=False)
        ray.wait([*self.pending], num_returns=len(self.pending), timeout=2 * GRACE)


class _Board:
    """Where trials say what they have reached, and hear whether they are given up: Ray's actor."""

    def __init__(self) -> None:
        self._news: list[tuple[int, int, float]] = []
        self._given_up: set[int] = set()

    def post(self, number: int, curve: Mapping[int, float]) -> bool:
        self._news += [(number, epoch, value) for epoch, value in sorted(curve.items())]
        return number in self._given_up

    def take(self) -> list[tuple[int, int, float]]:
        news, self._news = self._news, []
        return news

    def stop(self, number: int) -> None:
        self._given_up.add(number)


class _Asked:
    """The board, as a worker sees it."""

    def __init__(self, board: "ActorHandle[Any]") -> None:
        self._board = board

    def post(self, number: int, curve: Mapping[int, float]) -> bool:
        import ray

        return bool(ray.get(self._board.post.remote(number, curve)))


def _run(task: Task, code: bytes, board: "ActorHandle[Any] | None") -> Outcome:
    """What Ray runs."""
    asked: Board | None = _Asked(board) if board is not None else None
    return run_trial(task, code, asked)


@contextmanager
def _folder(folder: Path) -> Iterator[str]:
    """The study's folder, which goes when no worker is left; what proves that one sees it."""
    folder.mkdir(parents=True, exist_ok=True)
    proof = token_hex(16)
    (folder / PROOF).write_text(proof)
    try:
        yield proof
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ray(jobs: int) -> Iterator[Callable[[Resources], int]]:
    """Ray: the cluster of `RAY_ADDRESS`, else one of this process; how many trials it has room for.

    Raises:
        UserError: it cannot be had.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no GPU asked for hides none
    import ray

    address = os.environ.get("RAY_ADDRESS")
    own = {} if address else {"num_cpus": jobs, "object_store_memory": _OBJECTS}
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **own,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = f"the cluster of RAY_ADDRESS, {address}," if address else "Ray"
        raise UserError(f"{where} cannot be had ({reason(error)}).") from None

    def room(resources: Resources) -> int:
        if not address:
            return 1
        there = ray.cluster_resources()
        counts = [there.get("CPU", 0) / resources.cpus] if resources.cpus else []
        counts += [there.get("GPU", 0) / resources.gpus] if resources.gpus else []
        return max(1, int(min(counts, default=1)))

    try:
        yield room
    finally:
        ray.shutdown()


def _task(root: Path, study: Study, targets: tuple[str, ...], folder: Path, proof: str) -> Task:
    """What all trials of a study have in common."""
    top = Path(os.fsdecode(git(root, "rev-parse", "--show-toplevel").removesuffix(b"\n")))
    with opened(root) as repo:
        cache = str(Path(repo.cache.local.path).parents[1])
        has_remote = bool(repo.config["core"].get("remote"))
    definition = study.definition
    return Task(
        root=str(root),
        folder=str(folder),
        proof=proof,
        below=root.resolve().relative_to(top.resolve()).as_posix(),
        cache=cache,
        has_remote=has_remote,
        commit=study.commit,
        patch=study.patch,
        experiment="",
        trial=Trial(0, {}),
        targets=targets,
        file=definition.file,
        metric=definition.metric,
        environment={
            name: text
            for name, text in os.environ.items()
            if changes_numbers(name) or name.startswith(_FORWARDED)
        },
    )


def _bundle(root: Path, commit: str) -> bytes:
    """A commit and all that it needs, as Git packs it for another machine."""
    with tempfile.TemporaryDirectory() as folder:
        own = Apart(root, Path(folder) / "code")
        own.git("update-ref", "refs/heads/study", commit)
        return own.git("bundle", "create", "--quiet", "-", "refs/heads/study")


def _bring_home(root: Path, study: Study, outcome: Outcome) -> Trial:
    """Fetch a trial's experiment, and what its machine alone has on record."""
    trial = outcome.trial
    experiment = experiment_of(study.name, trial.number)
    try:
        if outcome.code is not None:
            with tempfile.TemporaryDirectory() as folder:
                source = outcome.code
                if isinstance(source, bytes):
                    source = Path(folder) / "bundle"
                    source.write_bytes(outcome.code)
                ref = experiment_ref(study.commit, experiment)
                with held(state_folder(root) / "studies.lock"):
                    git(root, "fetch", "--quiet", "--no-tags", str(source), f"+{ref}:{ref}")
        for run_id, files in (outcome.records or {}).items():
            place_files(run_dir(root, run_id), files)
        if isinstance(outcome.code, bytes) or outcome.records:
            _show(root, experiment, [*(outcome.records or {})])
    except (UserError, OSError) as error:
        return replace(trial, state="FAIL", error=f"it did not come home: {reason(error)}")
    return trial


def _show(root: Path, experiment: str, ids: list[str]) -> None:
    """Let MLflow show the runs of a trial that ran on another machine."""
    if not find_spec("mlflow") or os.environ.get("RUNRECORD_SINKS") == "off":
        return
    there = [(label, files) for label, files in records_at(root, experiment).items() if files]
    there += [(run_id, files_in(run_dir(root, run_id))) for run_id in ids]
    with sync_lock(root):
        store = Store(root)
        for one in read_runs(there, lambda _label, _error: None):
            with suppress(Exception):  # `runrecord sync` says what it is
                store.play(one)


def _log(run: Run, study: Study, trials: Mapping[int, Trial], trial: Trial) -> None:
    """Put a trial's outcome on record, and what is the best by now."""
    note(run, trial)
    if trial.value is not None:
        metric = study.definition.metric
        best = best_first(trials.values(), study.definition.better)[0].value
        assert best is not None
        run.log({metric: trial.value, f"Best {metric}": best}, step=trial.number)
