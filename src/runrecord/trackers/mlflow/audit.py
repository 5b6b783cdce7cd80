"""Does MLflow show what the record of a run says?"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from runrecord.record.events import Logged, ModelEvaluated, ModelSaved
from runrecord.record.reader import Record
from runrecord.safety.text import printable
from runrecord.trackers.base import LONGEST_TAG, SYSTEM, model_for, name_for, text_for
from runrecord.trackers.mlflow.artifacts import EVENTS_TAG, PATCH_TAG, points_shown
from runrecord.trackers.mlflow.sink import EVALUATED
from runrecord.verify.compare import (
    METRIC,
    MODEL,
    PARAM,
    STATUS,
    TAG,
    Difference,
    Place,
    Value,
    differences,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LATEST = "latest value of"


def is_of_origin(found: Difference) -> bool:
    """Did the run come from elsewhere? Then MLflow shows another run than the record's."""
    return found.place.kind == TAG and found.state == "differs"


def audit(client: "MlflowClient", run_id: str, record: Record) -> list[Difference]:
    """Compare what a record says, first, with what MLflow shows of its run, second.

    That is the run's origin, status and params, its metrics' points and the SHA-256 of its models.
    Metrics of other groups than the record's are others', as what an evaluation puts there.

    Raises:
        RecordRefused: the record is damaged.
        MlflowException: the store does not answer.
    """
    run = client.get_run(run_id)
    points: dict[Place, list[tuple[int, float]]] = {}  # with their times
    texts, origin = list[tuple[str, str, str]](), {**record.start.tags}
    for event in record.events(files=False):
        for name, step, value in points_shown(event):
            at = event.time, _storable(value)
            points.setdefault(Place(METRIC, name, step), []).append(at)
        if isinstance(event, ModelEvaluated):
            texts.append((MODEL, EVALUATED + model_for(event.model), event.sha256))
        elif isinstance(event, ModelSaved):
            texts.append((MODEL, "model.sha256", event.file.sha256))
        elif isinstance(event, Logged):  # the run may have given a tag anew
            origin = {key: text for key, text in origin.items() if key not in event.tags}
    texts += [(TAG, name_for(key), text[:LONGEST_TAG]) for key, text in origin.items()]
    recorded = {place: _distinct(value for _, value in values) for place, values in points.items()}
    shown: dict[Place, list[Value]] = {}
    names = {place.title for place in points}
    groups = {name.partition("/")[0] for name in names}
    others = {name for name in run.data.metrics if name.partition("/")[0] in groups}
    for name in names | {name for name in others if not name.startswith(SYSTEM)}:
        history: dict[int, list[float]] = {}
        for point in client.get_metric_history(run_id, name):
            history.setdefault(point.step, []).append(_storable(point.value))
        shown |= {Place(METRIC, name, step): _distinct(some) for step, some in history.items()}
        last = points.get(Place(METRIC, name, max(history, default=0)))
        if history and last and name in run.data.metrics:
            recorded[Place(_LATEST, name, None)] = [max(last)[1]]
            shown[Place(_LATEST, name, None)] = [_storable(run.data.metrics[name])]
    for key, value in record.start.params.items():
        recorded[Place(PARAM, name_for(key), None)] = [text_for(value)]
    for key, text in run.data.params.items():
        shown[Place(PARAM, key, None)] = [text]
    texts += [(TAG, PATCH_TAG, record.start.patch.sha256)] if record.start.patch else []
    texts += [(STATUS, "of the run", record.end.status)] if record.end else []
    whole = int(run.data.tags.get(EVENTS_TAG, 0)) >= record.length
    tags = run.data.tags | ({"of the run": run.info.status} if whole else {})
    for kind, key, text in texts:
        if key in tags:
            shown[Place(kind, key, None)] = [printable(tags[key])[:LONGEST_TAG]]
        if key in tags or not key.startswith((PATCH_TAG, EVALUATED)):  # older runs have neither
            recorded[Place(kind, key, None)] = [text]
    return sorted(differences(recorded, shown), key=lambda one: not is_of_origin(one))


def _distinct(values: Iterable[float]) -> list[Value]:
    """Those values once each, in an order: MLflow keeps equal points once, and in none."""
    found = {value.hex(): value for value in values}
    return [found[key] for key in sorted(found)]


def _storable(value: float) -> float:
    """A metric's value as any database of MLflow's can hold it: finite; SQLite has no -0.0."""
    finite = max(-sys.float_info.max, min(sys.float_info.max, value)) if value == value else value
    return finite + 0.0
