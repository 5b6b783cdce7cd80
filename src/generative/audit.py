"""Does MLflow show what the record of a run says?"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from generative.comparison import series_of
from generative.record import Record
from generative.tracking.events import ModelSaved

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Discrepancy:
    """Something that MLflow shows otherwise than the record has it; None where one lacks it."""

    name: str
    """Of the metric, param or tag."""
    step: int | None
    """MLflow's step, which is the epoch; None for params and tags."""
    shown: float | str | None
    recorded: float | str | None


def audit(client: "MlflowClient", run_id: str, record: Record) -> list[Discrepancy]:
    """Compare all metric points of a run, its params and its model's SHA-256 with its record.

    Metrics of other groups than the record's belong to others: to evaluations, or to people.

    Raises:
        RecordRefused: the record is damaged.
        MlflowException: the store does not answer.
    """
    events = list(record.events())
    run = client.get_run(run_id)
    params = {key: str(value) for key, value in record.start.params.items()}
    found = [
        Discrepancy(name, None, run.data.params.get(name), params.get(name))
        for name in sorted(params.keys() | run.data.params)
        if run.data.params.get(name) != params.get(name)
    ]
    for model in (event for event in events if isinstance(event, ModelSaved)):
        shown = run.data.tags.get("model.sha256")
        if shown != model.sha256:
            found.append(Discrepancy("model.sha256", None, shown, model.sha256))
    recorded = {
        name: {epoch: mean for epoch, (mean, _) in series.items()}
        for name, series in series_of(events).items()
    }
    groups = {name.partition("/")[0] for name in recorded}
    names = {name for name in run.data.metrics if name.partition("/")[0] in groups}
    for name in sorted(names | recorded.keys()):
        points = client.get_metric_history(run_id, name)
        shown_points = [(point.step, point.value) for point in points]
        latest = run.data.metrics.get(name)
        found += _compare(name, shown_points, latest, recorded.get(name, {}))
    return found


def _compare(
    name: str,
    shown: Iterable[tuple[int, float]],
    latest: float | None,
    recorded: Mapping[int, float],
) -> list[Discrepancy]:
    """A metric's points, which MLflow could have more than one of at a step, and its last value."""
    shown = sorted(shown)
    found = [
        Discrepancy(name, step, value, recorded.get(step))
        for step, value in shown
        if value != recorded.get(step)
    ]
    missing = recorded.keys() - {step for step, _ in shown}
    found += [Discrepancy(name, step, None, recorded[step]) for step in sorted(missing)]
    if recorded and latest != recorded[max(recorded)] and not found:
        found.append(Discrepancy(name, max(recorded), latest, recorded[max(recorded)]))
    return found
