"""Ray places trials: on this machine's CPUs and GPUs, or on a cluster's."""

import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from runrecord.dvc.cache import cache_of
from runrecord.errors import UserError
from runrecord.provenance.environment import STUDY_TAGS, changes_numbers
from runrecord.provenance.git import GitFailed, IsolatedRepo, git, top_of
from runrecord.run.process import GRACE
from runrecord.safety.text import reason
from runrecord.sweep.study import Trial, experiment_of
from runrecord.sweep.study_record import Study, tags_of_trial
from runrecord.sweep.trial_clone import Task
from runrecord.sweep.worker import Outcome, run_trial

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

_LOOK = 0.5  # seconds between two looks at what trials have reached
_OBJECTS = 80_000_000  # bytes of Ray's object store: tasks are small
_TRIES = 3  # times that a trial is taken up again whose worker died, or was killed for memory
_NO_MEMORY = (
    "Ray killed it each time, as its machine ran out of memory; run fewer at once with --jobs, or "
    "let each take more of a machine with --cpus"
)
_FORWARDED = ("MLFLOW_",)
_OF_DVC = (":(glob)**/dvc.lock", ":(glob)**/?*.dvc")


@dataclass(frozen=True)
class Resources:
    """What trials take."""

    jobs: int | None
    """How many run at once; None for as many as a cluster has room for, and one without one."""
    cpus: float
    """Of Ray's CPUs, a trial."""
    gpus: float


@contextmanager
def ray_at_work(resources: Resources) -> Iterator[int]:
    """Ray: the cluster of `RAY_ADDRESS`, else one of this process; how many trials run at once.

    Raises:
        UserError: it cannot be had, or has no machine that is large enough.
    """
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no GPU asked for hides none
    os.environ.setdefault("RAY_task_oom_retries", str(_TRIES))  # else a trial is killed for ever
    if not address:  # a token of this process alone: Ray would write one into the home folder
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token_hex(32))
    import ray

    jobs = resources.jobs or 1
    cpus = max(1, math.ceil(jobs * resources.cpus))
    own = {} if address else {"num_cpus": cpus, "object_store_memory": _OBJECTS}
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
    try:
        rooms = [_room(node["Resources"], resources) for node in ray.nodes() if node["Alive"]]
        if not any(rooms):
            lacking = (
                f"no machine of Ray's has {resources.cpus:g} CPUs and {resources.gpus:g} GPUs for "
                "a trial"
            )
            if not (address and resources.jobs):
                raise UserError(f"{lacking}; ask for less with --cpus and --gpus.")
            print(f"warning: {lacking}; it waits until the cluster grows.", file=sys.stderr)
        yield resources.jobs or (sum(rooms) if address else 1)
    finally:
        ray.shutdown()


def _room(node: Mapping[str, float], resources: Resources) -> int:
    """How many trials a machine has room for at once."""
    wanted = (("CPU", resources.cpus), ("GPU", resources.gpus))
    return int(min((node.get(kind, 0) / count for kind, count in wanted if count), default=1))


class Placing:
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
        """Ready to place trials of a study, whose folder has that proof in it."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._study = study
        self._base = task_of(root, study, targets, folder, proof)
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

    def start(self, trial: Trial) -> None:
        """Let a trial run as soon as there is room."""
        tags = tags_of_trial(self._study, trial)
        own = {STUDY_TAGS[tag]: text for tag, text in tags.items()}
        task = replace(
            self._base,
            trial=trial,
            experiment=experiment_of(self._study.name, trial.number),
            environment={**self._base.environment, **own},
        )
        self.pending[self._start.remote(task, self._code, self._board)] = trial

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
        from ray.exceptions import OutOfMemoryError, RayError

        done, _ = ray.wait([*self.pending], timeout=_LOOK)
        found = []
        for ref in done:
            trial = self.pending.pop(ref)
            try:
                found.append(ray.get(ref))
            except OutOfMemoryError:
                found.append(Outcome(replace(trial, state="FAIL", error=_NO_MEMORY)))
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


def _run(task: Task, code: bytes, board: "ActorHandle[Any] | None") -> Outcome:
    """What Ray runs."""
    import ray

    def post(number: int, curve: Mapping[int, float]) -> bool:
        assert board is not None
        return bool(ray.get(board.post.remote(number, curve)))

    return run_trial(task, code, post if board is not None else None)


def task_of(root: Path, study: Study, targets: tuple[str, ...], folder: Path, proof: str) -> Task:
    """What all trials of a study have in common."""
    top = top_of(root)
    cache, remotes, has_remote = cache_of(root)
    definition = study.definition
    return Task(
        root=str(root),
        folder=str(folder),
        proof=proof,
        below=root.resolve().relative_to(top.resolve()).as_posix(),
        cache=cache,
        remotes=remotes,
        has_remote=has_remote,
        person=_person(root),
        commit=study.commit,
        patch=study.patch,
        locks=_locks(root),
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


def _locks(root: Path) -> dict[str, bytes]:
    kinds = ("--modified", "--others", "--exclude-standard")
    listed = git(root, "ls-files", "-z", *kinds, "--", *_OF_DVC)
    paths = [root / os.fsdecode(name) for name in listed.split(b"\0") if name]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths if path.is_file()}


def _person(root: Path) -> tuple[str, str]:
    """Who makes commits in a repository.

    Raises:
        UserError: Git does not know.
    """
    try:
        told = git(root, "var", "GIT_COMMITTER_IDENT").decode(errors="replace")
    except GitFailed:
        raise UserError(
            "Git does not know who you are, and each trial is a commit; say it with "
            "'git config --global user.name NAME' and 'git config --global user.email ADDRESS'."
        ) from None
    name, _, rest = told.partition(" <")
    return name, rest.partition(">")[0]


def _bundle(root: Path, commit: str) -> bytes:
    """A commit and all that it needs, as Git packs it for another machine."""
    with tempfile.TemporaryDirectory() as folder:
        own = IsolatedRepo(root, Path(folder) / "code")
        own.git("update-ref", "refs/heads/study", commit)
        return own.git("bundle", "create", "--quiet", "-", "refs/heads/study")
