"""What the tracking store has of runs: found, and its pictures, files and models put there."""

import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from PIL import Image

from runrecord.files import sha256
from runrecord.project import ModelFlavor
from runrecord.record.events import (
    Contents,
    Event,
    Logged,
    ModelEvaluated,
    ModelSaved,
    RunEnded,
    RunStarted,
)
from runrecord.record.reader import Record
from runrecord.trackers.base import content_of, key_for, name_for, write_content

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

EVENTS_TAG = "record.events"
"""How many events of its record a run shows; set with the last one."""

BATCH = 800
"""Metrics that MLflow takes at once, beside a hundred params and a hundred tags."""

CHANGE = "provenance/change.patch"
"""Where a run's uncommitted change is, among its files."""

Point = tuple[str, int, int]
"""A metric's or picture's name, step and time: what makes a point the same point."""

_DEPS, _TRACEBACK, _OUTPUT = "provenance/deps.json", "traceback.txt", "output.txt"
_PAGE = 1000  # runs that are searched at once
_PICTURE = re.compile(r"images/(.+)\+step\+(\d+)\+timestamp\+(\d+)\+[^+]+\.png")
_SHOWN = 256  # pixels of a picture's longer side on MLflow's page


@dataclass(frozen=True)
class Shown:
    """What the tracking store has of a run."""

    run_id: str
    status: str
    start: int
    host: str
    events: int
    """How many of its record's events it shows for certain."""
    deleted: bool
    """A person deleted it in the user interface."""
    model_id: str
    """Of the model that it made, if it made one."""


def search(
    client: "MlflowClient", experiment: str, wanted: str, count: int = 0, deleted: bool = False
) -> "Iterator[Run]":
    """The runs of an experiment that MLflow's filter `wanted` lets through, the newest first.

    Args:
        client: of the store.
        experiment: its id.
        wanted: the filter; empty for all.
        count: of runs at most; 0 for all.
        deleted: those that a person deleted, too.
    """
    from mlflow.entities import ViewType

    kind = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    order, token = ["attributes.start_time DESC"], None
    while True:
        page = client.search_runs([experiment], wanted, kind, count or _PAGE, order, token)
        yield from page
        token = page.token
        if count or not token:
            return


def runs_shown(client: "MlflowClient", experiment: str, wanted: str = "") -> dict[str, Shown]:
    """The runs of ours that a filter lets through, by their records' ids."""
    runs: dict[str, Shown] = {}
    for run in search(client, experiment, wanted, deleted=True):
        tags, info = run.data.tags, run.info
        record_id, deleted = tags.get("record.id"), info.lifecycle_stage == "deleted"
        if record_id and not (deleted and record_id in runs):
            runs[record_id] = Shown(
                info.run_id,
                info.status,
                info.start_time,
                tags.get("host", ""),
                int(tags.get(EVENTS_TAG, 0)),
                deleted,
                tags.get("model.id", ""),
            )
    return runs


def artifacts_of(client: "MlflowClient", run: "Run") -> "ArtifactRepository":
    """Where a run's files lie. MLflow's client would ask for the run anew, at each call."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(run.info.artifact_uri, tracking_uri=client.tracking_uri)


def points_shown(event: Event) -> Iterator[tuple[str, int, float]]:
    """The name, step and value of each point of a metric that a run has of an event."""
    match event:
        case Logged():
            for title, value in event.metrics.items():
                yield name_for(title), event.step, float(value)
        case ModelEvaluated():
            for title, value in event.metrics.items():
                yield name_for(f"{event.model}/{title}"), 0, float(value)
            for title, curve in event.series.items():
                for x, y in curve:
                    yield name_for(f"{event.model}/{title}"), x, float(y)


def files_shown(event: Event, contents: Contents) -> dict[str | Point, bytes | Path]:
    """The files that a run has of an event, by their paths there; pictures by their points."""
    found: dict[str | Point, bytes | Path] = {}
    match event:
        case RunStarted():
            found[_DEPS] = json.dumps(dict(event.deps), indent=2).encode()
            if event.patch:
                patch = content_of(event.patch, contents).decode(errors="replace")
                found[CHANGE] = patch.encode()
        case Logged():
            for title, file in event.images.items():
                found[key_for(title), event.step, event.time] = contents[file.name]
            for files, suffix in ((event.texts, ".txt"), (event.artifacts, "")):
                for title, file in files.items():
                    folder = file.name.partition("/")[0]
                    found[f"{folder}/{key_for(title)}{suffix}"] = contents[file.name]
        case RunEnded():
            if event.traceback:
                found[_TRACEBACK] = event.traceback.encode(errors="replace")
            if event.output:
                found[_OUTPUT] = contents[event.output.name]
    return found


def lacks_files(client: "MlflowClient", run_id: str, record: Record) -> bool:
    """Does a run lack some picture, model or other file that its record has?

    Raises:
        RecordRefused: the record is damaged.
    """
    run, has_model = client.get_run(run_id), False
    places: set[str | Point] = set()
    for event in record.events():
        places |= files_shown(event, record.contents).keys()
        has_model = has_model or isinstance(event, ModelSaved)
    files = {place for place in places if isinstance(place, str)}
    if has_model:
        model = run.data.tags.get("model.id")
        if not model or not client.list_logged_model_artifacts(model):
            return True
    return not (
        files <= _there(artifacts_of(client, run), files)
        and places - files <= pictures_of(client, run)
    )


def pictures_of(client: "MlflowClient", run: "Run") -> set[Point]:
    """The key, step and time of each of a run's pictures, whose files are named after these."""
    files = artifacts_of(client, run).list_artifacts("images")
    names = (_PICTURE.fullmatch(file.path) for file in files)
    return {(name[1].replace("~", "/"), int(name[2]), int(name[3])) for name in names if name}


def picture_files(point: Point, png: bytes) -> dict[str, bytes]:
    """A picture as MLflow keeps it: whole, and as small as its page shows it; by their paths.

    As `log_image` makes them, but named by their content: put there again, it is the same file,
    and whole if it was not.
    """
    key, step, time = point
    number = UUID(sha256(png)[:32])
    stem = f"images/{key.replace('/', '~')}+step+{step}+timestamp+{time}+{number}"
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        scale = _SHOWN / max(image.size)
        small = image.resize([max(1, int(side * scale)) for side in image.size])
    file = io.BytesIO()
    small.save(file, format="webp")
    return {f"{stem}.png": png, f"{stem}+compressed.webp": file.getvalue()}


def put_files(repository: "ArtifactRepository", files: Mapping[str, bytes | Path]) -> None:
    """Put files among a run's, by their paths there, all in one go.

    Raises:
        OSError: a server took them, and does not have them.
    """
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            write_content(content, Path(folder) / path)
        repository.log_artifacts(folder)
    proxied = isinstance(repository, HttpArtifactRepository)
    if proxied and (lost := files.keys() - _there(repository, files)):
        raise OSError(f"it took {min(lost)}, and does not have it")


def _there(repository: "ArtifactRepository", paths: Iterable[str]) -> set[str]:
    """The files that are in the folders of those."""
    folders = {path.rpartition("/")[0] for path in paths}
    return {file.path for folder in folders for file in repository.list_artifacts(folder or None)}


def put_model(
    client: "MlflowClient",
    model: "LoggedModel",
    event: ModelSaved,
    contents: Contents,
    flavor: ModelFlavor | None,
) -> None:
    """Put a model's files there as its project packs it; without a flavor, its file.

    Raises:
        OSError: a server took them, and does not have them.
    """
    from mlflow.entities import LoggedModelStatus
    from mlflow.models import Model

    ready = model.status == LoggedModelStatus.READY
    if not (ready and client.list_logged_model_artifacts(model.model_id)):
        with tempfile.TemporaryDirectory() as folder:
            weights, packed = Path(folder) / "file" / event.filename, Path(folder) / "model"
            write_content(contents[event.file.name], weights)
            if flavor:
                of_run = Model(run_id=model.source_run_id, model_id=model.model_id)
                flavor.save(weights, packed, of_run)
            else:
                weights.parent.rename(packed)
            client.log_model_artifacts(model.model_id, str(packed))
        if not client.list_logged_model_artifacts(model.model_id):
            raise OSError("it took the model, and does not have it")
    if not ready:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def points_of(client: "MlflowClient", run: "Run") -> set[Point]:
    """The points of all metrics of a run."""
    return {
        (point.key, point.step, point.timestamp)
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    }
