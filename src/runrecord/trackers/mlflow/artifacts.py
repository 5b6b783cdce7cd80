"""What the tracking store has of runs: found, and its pictures, files and models put there."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from PIL import Image

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
from runrecord.trackers.base import content_of, flat, name_for, write_content
from runrecord.trackers.mlflow.store import Shown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

EVENTS_TAG = "record.events"
"""How many events of its record a run shows; set with the last one."""

PATCH_TAG = "record.patch"
"""The SHA-256 of a run's uncommitted change."""

_PAGE = 1000  # runs that are searched at once
_IMAGES = "images/"
_SHOWN = 256  # pixels of a picture's longer side on MLflow's page, at most


def search(
    client: "MlflowClient", experiment: str, wanted: str, count: int = 0, deleted: bool = False
) -> "Iterator[Run]":
    """The runs of an experiment that MLflow's filter `wanted` lets through, the newest first.

    That is `count` at most, 0 for all; with `deleted`, those that a person deleted, too.
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
            events = 0 if info.status == "RUNNING" else int(tags.get(EVENTS_TAG, 0))
            model_id = tags.get("model.id", "")
            found = Shown(info.run_id, info.start_time, events, deleted, model_id)
            runs[record_id] = found
    return runs


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


def files_shown(event: Event, contents: Contents) -> dict[str, bytes | Path]:
    """The files that a run has of an event, by their paths there.

    Pictures have names as `log_image` makes them, but by their content: put there again, one is the
    same file, and whole if it was not.
    """
    found: dict[str, bytes | Path] = {}
    match event:
        case RunStarted():
            found["provenance/deps.json"] = json.dumps(dict(event.deps), indent=2).encode()
            if event.patch:
                patch = content_of(event.patch, contents).decode(errors="replace")
                found["provenance/change.patch"] = patch.encode()
        case Logged():
            for title, file in event.images.items():
                number = UUID(file.sha256[:32])
                name = f"{flat(title)}+step+{event.step}+timestamp+{event.time}+{number}.png"
                found[_IMAGES + name] = contents[file.name]
            for files, suffix in ((event.texts, ".txt"), (event.artifacts, "")):
                for title, file in files.items():
                    folder = file.name.partition("/")[0]
                    found[f"{folder}/{flat(title)}{suffix}"] = contents[file.name]
        case RunEnded():
            if event.traceback:
                found["traceback.txt"] = event.traceback.encode(errors="replace")
            if event.output:
                found["output.txt"] = contents[event.output.name]
    return found


def lacks_files(client: "MlflowClient", run_id: str, record: Record) -> bool:
    """Does a run lack some picture, model or other file that its record has, or had?

    Raises:
        RecordRefused: the record is damaged.
    """
    files, has_model = set[str](), False
    for event in record.events():
        files |= files_shown(event, record.contents).keys()
        has_model = has_model or isinstance(event, ModelSaved)
    if has_model:
        model = client.get_run(run_id).data.tags.get("model.id")
        if not model or not client.list_logged_model_artifacts(model):
            return True
    return bool(record.damaged) or not files <= _there(client, run_id, files)


def _write_small(picture: Path) -> None:
    """Write a picture as small as MLflow's page shows it, beside it."""
    with Image.open(picture, formats=["PNG"]) as image:
        image.thumbnail((_SHOWN, _SHOWN))
        image.save(picture.with_name(f"{picture.stem}+compressed.webp"))


def put_files(client: "MlflowClient", run_id: str, files: Mapping[str, bytes | Path]) -> None:
    """Put files among a run's, by their paths there, all at once.

    Raises:
        OSError: a server took them, and does not have them.
    """
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            write_content(content, Path(folder) / path)
            if path.startswith(_IMAGES):
                _write_small(Path(folder) / path)
        client.log_artifacts(run_id, folder)
    if lost := files.keys() - _there(client, run_id, files):
        raise OSError(f"it took {min(lost)}, and does not have it")


def _there(client: "MlflowClient", run_id: str, paths: Iterable[str]) -> set[str]:
    """The files that are in the folders of those."""
    folders = {path.rpartition("/")[0] or None for path in paths}
    return {file.path for folder in folders for file in client.list_artifacts(run_id, folder)}


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
