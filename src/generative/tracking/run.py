"""One tracked run: begun, watched, and ended with its true status."""

import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from generative.provenance import changed_deps
from generative.record import Journal
from generative.redact import redact
from generative.setting import Setting
from generative.spool import claimed, host
from generative.stage import Terminated
from generative.tracking.events import RunEnded, RunStarted
from generative.tracking.mlflow import MlflowSink
from generative.tracking.tensorboard import TensorBoardSink
from generative.tracking.tracker import Tracker

PATIENCE = 60.0  # seconds that a finished run waits for its sinks
LAST_WORDS = 4.0  # seconds that one which was told to stop waits for them


@contextmanager
def tracked(
    setting: Setting,
    record: Path,
    params: Mapping[str, str | int | float | bool],
    models: Mapping[str, str] | None = None,
) -> Iterator[Tracker]:
    """A run in the spool, MLflow and TensorBoard: FAILED on an exception, KILLED on a signal.

    One that ends well leaves its sealed record at `record`.
    """
    with claimed(setting.root, setting.stage) as folder:
        journal = Journal(folder)
        tracker = Tracker(journal, setting.root, [TensorBoardSink, MlflowSink])
        patience = PATIENCE
        try:
            tracker.log(
                RunStarted(
                    id=folder.name,
                    stage=setting.stage,
                    time=now(),
                    host=host(),
                    params=params,
                    tags=setting.origin.tags,
                    dataset=setting.dataset,
                    models=models or {},
                    deps=setting.origin.deps,
                    patch=setting.origin.patch,
                )
            )
            yield tracker
            changed = changed_deps(setting.origin.deps, Path.cwd(), setting.stage)
            if changed:
                print(
                    f"warning: {', '.join(changed)} changed while {setting.stage} ran: its results "
                    "are of what was there before, dvc.lock will say otherwise; run it again with "
                    f"'dvc repro --force --single-item {setting.stage}'.",
                    file=sys.stderr,
                )
            end = RunEnded(now(), "FINISHED", changed=changed)
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


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
