"""One tracked run: begun, watched, and ended with its true status."""

import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from generative.provenance import changed_deps, hash_outs
from generative.record import Journal, Record, files_in
from generative.redact import redact
from generative.setting import Setting
from generative.spool import claimed, host
from generative.stage import Terminated
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
) -> Iterator[Tracker]:
    """A run in the spool, MLflow and TensorBoard: FAILED on an exception, KILLED on a signal.

    One that ends well leaves its sealed record at `record`. `stopped` is the id of a run that is to
    be gone on with; where another process has it by now, a new run begins: `run_id` tells.
    """
    with claimed(setting.root, setting.stage, stopped) as folder:
        past = Record(files_in(folder)) if folder.name == stopped else None
        journal = Journal(folder, past.size if past else 0)
        tracker = Tracker(journal, setting.root, _sinks(), past.length if past else 0)
        patience = PATIENCE
        try:
            if past is None:
                tracker.log(_start(folder.name, setting, params, models or {}))
            yield tracker
            changed = changed_deps(setting.origin.deps, Path.cwd(), setting.stage)
            if changed:
                print(
                    f"warning: {', '.join(changed)} changed while {setting.stage} ran: its results "
                    "are of what was there before, dvc.lock will say otherwise; run it again with "
                    f"'dvc repro --force --single-item {setting.stage}'.",
                    file=sys.stderr,
                )
            outs = hash_outs(Path.cwd(), setting.stage)
            end = RunEnded(now(), "FINISHED", changed=changed, outs=outs)
            journal.seal(record, end)
        except (KeyboardInterrupt, Terminated):
            end = RunEnded(now(), "KILLED")
            patience = LAST_WORDS
            raise
        except BaseException as error:
            message = redact(f"{type(error).__name__}: {error}")
            end = RunEnded(now(), "FAILED", message, redact(traceback.format_exc()))
            raise
        finally:
            tracker.log(end)
            tracker.close(patience)


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
