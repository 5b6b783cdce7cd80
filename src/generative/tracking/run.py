"""One tracked run: begun, watched, and ended with its true status."""

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from generative.errors import RunFailed
from generative.provenance import changed_inputs, hash_outs
from generative.record import Journal, Record, files_in
from generative.redact import redact
from generative.setting import Setting
from generative.spool import claimed, host, remember_patch
from generative.stage import Terminated, end_waiting_on_signals
from generative.tracking.events import RunEnded, RunStarted
from generative.tracking.mlflow import MlflowSink
from generative.tracking.tensorboard import TensorBoardSink
from generative.tracking.tracker import Sink, Tracker

PATIENCE = 60.0  # seconds that a finished run waits for its sinks
LAST_WORDS = 4.0  # seconds that one which was told to stop waits for them


@contextmanager
def tracked(
    setting: Setting,
    record: Path,
    params: Mapping[str, str | int | float | bool],
    models: Mapping[str, str] | None = None,
    stopped: str | None = None,
    finished: Callable[[str], object] | None = None,
) -> Iterator[Tracker]:
    """A run in the spool, MLflow and TensorBoard: FAILED on an exception, KILLED on a signal.

    One that ends well leaves its sealed record at `record`, then calls `finished` with its id. From
    there on its result is kept: a signal to end only ends the waiting for the sinks.

    Args:
        setting: where it runs and what it reads.
        record: where the sealed record goes.
        params: what the run is shown with.
        models: SHA-256 of each model file it reads, by the model's name.
        stopped: the id of a run that is to be gone on with; where another process has it by now, a
            new run begins: `run_id` tells.
        finished: for house-keeping.

    Raises:
        RunFailed: what the stage reads was changed while it ran.
    """
    origin = setting.origin
    with claimed(setting.root, setting.stage, stopped) as folder:
        past = Record(files_in(folder)) if folder.name == stopped else None
        journal = Journal(folder, past.size if past else 0)
        tracker = Tracker(journal, setting.root, _sinks(), past.length if past else 0)
        changed: tuple[str, ...] = ()
        try:
            if past is None:
                tracker.log(_start(folder.name, setting, params, models or {}))
                remember_patch(setting.root, origin.patch)
            yield tracker
            if changed := changed_inputs(origin, Path.cwd(), setting.stage):
                raise RunFailed(
                    f"{', '.join(changed)} changed while {setting.stage} ran: dvc.lock would name "
                    "what was not run; put it back, and 'dvc repro' goes on from the last "
                    "checkpoint, or run it again as it is now."
                )
            end = RunEnded(now(), "FINISHED", outs=hash_outs(Path.cwd(), setting.stage))
            end_waiting_on_signals(tracker.stop_waiting)
            journal.seal(record, end)
        except (KeyboardInterrupt, Terminated):
            tracker.log(RunEnded(now(), "KILLED"))
            tracker.close(LAST_WORDS)
            raise
        except BaseException as error:
            message = redact(f"{type(error).__name__}: {error}")
            trace = redact(traceback.format_exc())
            tracker.log(RunEnded(now(), "FAILED", message, trace, changed))
            tracker.close(PATIENCE)
            raise
        tracker.log(end)
        if finished:
            finished(folder.name)
        tracker.close(PATIENCE)


def _sinks(environment: Mapping[str, str] = os.environ) -> list[type[Sink]]:
    """What shows the run, besides its record; nothing where `GENERATIVE_TRACKERS` is `off`."""
    off = environment.get("GENERATIVE_TRACKERS") == "off"
    return [] if off else [TensorBoardSink, MlflowSink]


def _start(
    run_id: str,
    setting: Setting,
    params: Mapping[str, str | int | float | bool],
    models: Mapping[str, str],
) -> RunStarted:
    return RunStarted(
        id=run_id,
        stage=setting.stage,
        time=now(),
        host=host(),
        params=params,
        tags=setting.origin.tags,
        dataset=setting.dataset,
        models=models,
        deps=setting.origin.deps,
        patch=setting.origin.patch,
    )


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
