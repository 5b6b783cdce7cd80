"""One tracked run: begun, watched, and ended with its true status."""

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from generative.stage import Terminated
from generative.tracking.events import Dataset, RunEnded, RunStarted, Status
from generative.tracking.mlflow import MlflowSink
from generative.tracking.tensorboard import TensorBoardSink
from generative.tracking.tracker import Tracker

PATIENCE = 60.0  # seconds that a finished run waits for its sinks


@contextmanager
def tracked(
    root: Path,
    stage: str,
    params: Mapping[str, str | int | float | bool],
    tags: Mapping[str, str],
    dataset: Dataset,
    models: Mapping[str, str] | None = None,
) -> Iterator[Tracker]:
    """A run in MLflow and TensorBoard: FAILED on an exception, KILLED on a signal."""
    name = f"{stage}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    tracker = Tracker(
        {
            "TensorBoard": lambda: TensorBoardSink(root),
            "MLflow": lambda: MlflowSink(root),
        }
    )
    tracker.log(RunStarted(name, stage, now(), params, tags, dataset, models or {}))
    status: Status = "FAILED"
    message = ""
    try:
        yield tracker
        status = "FINISHED"
    except (KeyboardInterrupt, Terminated):
        status = "KILLED"
        raise
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        tracker.log(RunEnded(now(), status, message))
        tracker.close(PATIENCE)


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
