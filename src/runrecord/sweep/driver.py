"""One study from its start to its end: Optuna chooses params, Ray places trials."""

import logging
import math
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from runrecord.errors import UserError
from runrecord.files import write_atomic
from runrecord.record.events import Logged
from runrecord.record.reader import Growing
from runrecord.run.process import GRACE, Terminated, raise_on_signals
from runrecord.safety.text import reason
from runrecord.sweep.study import Outcome, Study
from runrecord.sweep.worker import Task, run_trial, runs_of

if TYPE_CHECKING:
    from ray import ObjectRef

_LOOK = 0.5  # seconds between two looks at what trials have reached
_OBJECTS = 80_000_000  # bytes of Ray's object store: tasks are small
_TRIES = 3  # times that a trial is tried again whose worker died, or was killed for memory
_NO_MEMORY = "its machine ran out of memory each time; lower --jobs, or raise --cpus"


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
