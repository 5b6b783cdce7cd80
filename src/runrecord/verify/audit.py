"""Does MLflow show what the record of a run says?"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from runrecord.events import RunStarted
from runrecord.files import sha256
from runrecord.record.reader import Record
from runrecord.record.schema import PATCH
from runrecord.run_view import view
from runrecord.sinks.mlflow_shown import CHANGE, artifacts_of
from runrecord.sinks.names import LONGEST_TAG, SYSTEM, name_for, text_for
from runrecord.text import printable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass(frozen=True)
class Discrepancy:
    """Something that MLflow shows otherwise than the record has it; None where one lacks it."""

    name: str
    """Of the metric, param or tag."""
    step: int | None
    """MLflow's step, which is the epoch; None for params and tags."""
    shown: float | str | None
    recorded: float | str | None
    of_origin: bool = False
    """It is where the run came from: MLflow shows another run than the record's."""


def audit(client: "MlflowClient", run_id: str, record: Record) -> list[Discrepancy]:
    """Compare a run's origin, its params, metric points and model's SHA-256 with its record.

    Metrics of other groups than the record's belong to others: to evaluations, or to people.

    Raises:
        RecordRefused: the record is damaged.
        MlflowException: the store does not answer.
    """
    seen = view(record)
    run = client.get_run(run_id)
    params = {name_for(key): text_for(value) for key, value in record.start.params.items()}
    found = [*_origin(client, run, record.start, record.patch())]
    found += [
        Discrepancy(name, None, run.data.params.get(name), params.get(name))
        for name in sorted(params.keys() | run.data.params)
        if run.data.params.get(name) != params.get(name)
    ]
    shown = run.data.tags.get("model.sha256")
    if seen.model and shown != seen.model:
        found.append(Discrepancy("model.sha256", None, shown, seen.model))
    recorded = {
        name_for(name): {step: _storable(value) for step, (value, _) in series.items()}
        for name, series in seen.series.items()
    }
    groups = {name.partition("/")[0] for name in recorded}
    ours = {name for name in run.data.metrics if name.partition("/")[0] in groups}
    names = {name for name in ours if not name.startswith(SYSTEM)}
    for name in sorted(names | recorded.keys()):
        points = client.get_metric_history(run_id, name)
        shown_points = [(point.step, point.value) for point in points]
        latest = run.data.metrics.get(name)
        found += _compare(name, shown_points, latest, recorded.get(name, {}))
    return found


def _origin(
    client: "MlflowClient", run: "Run", start: RunStarted, patch: bytes
) -> Iterator[Discrepancy]:
    """What MLflow shows otherwise of a run's commit, machine and uncommitted change."""
    for name, value in start.tags.items():
        shown = run.data.tags.get(name_for(name), value)
        if printable(shown)[:LONGEST_TAG] != value[:LONGEST_TAG]:
            yield Discrepancy(name, None, printable(shown), value, of_origin=True)
    recorded = patch.decode(errors="replace")
    clean = run.data.tags.get("git.dirty") == "false"
    shown_patch = "" if clean else _patch(client, run)
    if shown_patch is not None and shown_patch != recorded:
        shown, value = (sha256(text.encode()) for text in (shown_patch, recorded))
        yield Discrepancy(f"the SHA-256 of {PATCH}", None, shown, value, of_origin=True)


def _patch(client: "MlflowClient", run: "Run") -> str | None:
    """A run's uncommitted change as MLflow has it, if it has."""
    repository = artifacts_of(client, run)
    if CHANGE not in {file.path for file in repository.list_artifacts("provenance")}:
        return None
    with TemporaryDirectory() as folder:
        return Path(repository.download_artifacts(CHANGE, folder)).read_bytes().decode()


def _storable(value: float) -> float:
    """A metric's value as any database of MLflow's can hold it: finite; SQLite has no -0.0."""
    finite = max(-sys.float_info.max, min(sys.float_info.max, value)) if value == value else value
    return finite + 0.0


def _compare(
    name: str,
    shown: Iterable[tuple[int, float]],
    latest: float | None,
    recorded: Mapping[int, float],
) -> list[Discrepancy]:
    """A metric's points, which MLflow could have more than one of at a step, and its last value."""
    shown = sorted((step, _storable(value)) for step, value in shown)
    latest = latest if latest is None else _storable(latest)
    found = [
        Discrepancy(name, step, value, recorded.get(step))
        for step, value in shown
        if str(value) != str(recorded.get(step))
    ]
    missing = recorded.keys() - {step for step, _ in shown}
    found += [Discrepancy(name, step, None, recorded[step]) for step in sorted(missing)]
    if recorded and str(latest) != str(recorded[max(recorded)]) and not found:
        found.append(Discrepancy(name, max(recorded), latest, recorded[max(recorded)]))
    return found
