"""One tracked run: begun, watched, and ended with its true status."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from runrecord.errors import RunFailed
from runrecord.events import Dataset, RunEnded, RunStarted
from runrecord.process import Terminated, end_waiting_on_signals
from runrecord.provenance.environment import Origin
from runrecord.provenance.pipeline import changed_inputs, hash_outs
from runrecord.record.reader import Record, files_in
from runrecord.record.writer import RecordWriter
from runrecord.run_store import claim_run, host, remember_patch
from runrecord.secrets import redact
from runrecord.sinks.base import Sink
from runrecord.sinks.mlflow import MlflowSink
from runrecord.sinks.tensorboard import TensorBoardSink
from runrecord.tracker import Tracker

PATIENCE = 60.0  # seconds that a finished run waits for its sinks
KILLED_PATIENCE = 4.0  # seconds that one which was told to stop waits for them


@contextmanager
def start_run(
    root: Path,
    stage: str,
    record: Path,
    params: Mapping[str, str | int | float | bool],
    dataset: Dataset,
    origin: Origin,
    models: Mapping[str, str] | None = None,
    stopped: str | None = None,
    finished: Callable[[str], object] | None = None,
) -> Iterator[Tracker]:
    """A run in the run store, MLflow and TensorBoard: FAILED on an exception, KILLED on a signal.

    One that ends well leaves its sealed record at `record`, then calls `finished` with its id. From
    there on its result is kept: a signal to end only ends the waiting for the sinks.

    Args:
        root: the main repository.
        stage: as dvc.yaml names it.
        record: where the sealed record goes.
        params: what the run is shown with.
        dataset: the data it reads.
        origin: where it comes from.
        models: SHA-256 of each model file it reads, by the model's name.
        stopped: the id of a run that is to be gone on with; where another process has it by now, a
            new run begins: `run_id` tells.
        finished: for house-keeping.

    Raises:
        RunFailed: what the stage reads was changed while it ran.
    """
    if origin.trouble:
        print(f"warning: {origin.trouble} It cannot be rebuilt later.", file=sys.stderr)
    with claim_run(root, stage, stopped) as folder:
        past = Record(files_in(folder)) if folder.name == stopped else None
        writer = RecordWriter(folder, past.size if past else 0)
        tracker = Tracker(writer, root, _sinks(), past.length if past else 0)
        start = RunStarted(
            id=folder.name,
            stage=stage,
            time=now(),
            host=host(),
            params=params,
            tags=origin.tags,
            dataset=dataset,
            models=models or {},
            deps=origin.deps,
            patch=origin.patch,
        )
        changed: tuple[str, ...] = ()
        try:
            if past is None:
                tracker.log(start)
                remember_patch(root, origin.patch)
            yield tracker
            if changed := changed_inputs(origin.deps, origin.params, Path.cwd(), stage):
                raise RunFailed(
                    f"{', '.join(changed)} changed while {stage} ran: dvc.lock would name "
                    "what was not run; put it back, and 'dvc repro' goes on from the last "
                    "checkpoint, or run it again as it is now."
                )
            end = RunEnded(now(), "FINISHED", outs=hash_outs(Path.cwd(), stage))
            end_waiting_on_signals(tracker.stop_waiting)
            writer.seal(record, end)
        except (KeyboardInterrupt, Terminated):
            tracker.log(RunEnded(now(), "KILLED"))
            tracker.close(KILLED_PATIENCE)
            raise
        except BaseException as error:
            message = redact(f"{type(error).__name__}: {error}")
            trace = redact(traceback.format_exc())
            end_waiting_on_signals(tracker.stop_waiting)
            tracker.log(RunEnded(now(), "FAILED", message, trace, changed))
            tracker.close(PATIENCE)
            raise
        tracker.log(end)
        if finished:
            finished(folder.name)
        tracker.close(PATIENCE)


def _sinks(environment: Mapping[str, str] = os.environ) -> list[type[Sink]]:
    """What shows the run, besides its record; nothing where `RUNRECORD_SINKS` is `off`."""
    off = environment.get("RUNRECORD_SINKS") == "off"
    return [] if off else [TensorBoardSink, MlflowSink]


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
