"""Does MLflow show what the record of a run says?"""

import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from runrecord.files import sha256
from runrecord.record.events import PATCH, ModelEvaluated, ModelSaved
from runrecord.record.reader import EVALUATION, Record
from runrecord.safety.text import printable
from runrecord.trackers.base import LONGEST_TAG, SYSTEM, model_for, name_for, text_for
from runrecord.trackers.mlflow.artifacts import CHANGE, EVENTS_TAG, artifacts_of, points_shown
from runrecord.trackers.mlflow.links import EVALUATED_BY
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
    from mlflow.entities import Run

_CHANGE, _LATEST = "SHA-256 of", "latest value of"
_ORIGIN = (TAG, _CHANGE)


def is_of_origin(found: Difference) -> bool:
    """Did the run come from elsewhere? Then MLflow shows another run than the record's."""
    return found.place.kind in _ORIGIN and found.state == "differs"


def audit(client: "MlflowClient", run_id: str, record: Record) -> list[Difference]:
    """Compare what a record says, first, with what MLflow shows of its run, second.

    That is the run's origin, status and params, its metrics' points and the SHA-256 of its models.
    Metrics of other groups than the record's are others': evaluations', if not the run's own.

    Raises:
        RecordRefused: the record is damaged.
        MlflowException: the store does not answer.
    """
    run = client.get_run(run_id)
    events = list(record.events(files=False))
    points: dict[tuple[str, int], list[float]] = {}
    for event in events:
        for name, step, value in points_shown(event):
            points.setdefault((name, step), []).append(value)
    made = [event for event in events if isinstance(event, ModelSaved)][-1:]
    evaluated = [event for event in events if isinstance(event, ModelEvaluated)]
    own = {event.file.sha256 for event in made if run.data.tags.get(EVALUATED_BY) == run_id}
    for event in evaluated:
        for title, value in event.metrics.items() if event.sha256 in own else ():
            if (name := EVALUATION + name_for(title)) in run.data.metrics:
                points.setdefault((name, made[0].step), []).append(value)
    recorded = {Place(METRIC, *point): _distinct(values) for point, values in points.items()}
    shown: dict[Place, list[Value]] = {}
    names = {name for name, _ in points}
    groups = {name.partition("/")[0] for name in names}
    others = {name for name in run.data.metrics if name.partition("/")[0] in groups}
    for name in names | {name for name in others if not name.startswith(SYSTEM)}:
        history: dict[int, list[float]] = {}
        for point in client.get_metric_history(run_id, name):
            history.setdefault(point.step, []).append(point.value)
        for step, values in history.items():
            place, found = Place(METRIC, name, step), _distinct(values)
            # Of points of one step and time MLflow keeps one.
            some = len(found) < len(recorded.get(place, ())) and {*found} <= {*recorded[place]}
            shown[place] = recorded[place] if some else found
        last = points.get((name, max(history, default=0)))
        if history and last and name in run.data.metrics:
            recorded[Place(_LATEST, name, None)] = [_storable(last[-1])]
            shown[Place(_LATEST, name, None)] = [_storable(run.data.metrics[name])]
    for key, value in record.start.params.items():
        recorded[Place(PARAM, name_for(key), None)] = [text_for(value)]
    for key, text in run.data.params.items():
        shown[Place(PARAM, key, None)] = [text]
    texts = [(MODEL, f"{model_for(event.model)}.sha256", event.sha256) for event in evaluated]
    texts += [(MODEL, "model.sha256", event.file.sha256) for event in made]
    texts += [(TAG, name_for(key), text[:LONGEST_TAG]) for key, text in record.start.tags.items()]
    texts += [(STATUS, "of the run", record.end.status)] if record.end else []
    whole = int(run.data.tags.get(EVENTS_TAG, 0)) >= record.length
    tags = run.data.tags | ({"of the run": run.info.status} if whole else {})
    for kind, key, text in texts:
        recorded[Place(kind, key, None)] = [text]
        if key in tags:
            shown[Place(kind, key, None)] = [printable(tags[key])[:LONGEST_TAG]]
    change = record.patch().decode(errors="replace")
    clean = run.data.tags.get("git.dirty") == "false"
    other_change = "" if clean else _patch(client, run)
    if other_change is not None:
        recorded[Place(_CHANGE, PATCH, None)] = [sha256(change.encode())]
        shown[Place(_CHANGE, PATCH, None)] = [sha256(other_change.encode())]
    listed = list(differences(recorded, shown))
    return sorted(listed, key=lambda one: one.place.kind not in _ORIGIN)


def _distinct(values: Iterable[float]) -> list[Value]:
    """Those values once each, in an order: MLflow keeps equal points once, and in none."""
    found = {value.hex(): value for value in map(_storable, values)}
    return [found[key] for key in sorted(found)]


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
