"""The MLflow sink: one MLflow run a run, known by its tag `record.id`."""

import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from runrecord.events import (
    Contents,
    Dataset,
    Event,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Observed,
    Resumed,
    RunEnded,
    RunStarted,
)
from runrecord.files import write_atomic
from runrecord.project import load_project
from runrecord.record.schema import RecordRefused
from runrecord.sinks.base import Sink, content_of
from runrecord.sinks.mlflow_links import Links
from runrecord.sinks.mlflow_shown import EVENTS_TAG, Point, pictures_of, points_of
from runrecord.sinks.mlflow_store import connect
from runrecord.sinks.names import LONGEST_TAG, SYSTEM, key_for, model_for, name_for, text_for

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel, Run

_BATCH = 1000  # metrics that MLflow takes at once


class MlflowSink(Sink):
    """Plays a run's events into the tracking store of the main repository at `root`."""

    name = "MLflow"
    package = "mlflow"
    remedy = "'runrecord sync' completes MLflow later"

    def __init__(self, root: Path) -> None:
        self._project = load_project(root)
        self._client, self._experiment = connect(root)
        self._links = Links(self._client, self._experiment, self._project)
        self._run_id = ""
        self._params: dict[str, str] = {}
        self._began = 0
        self._events = 0
        self._shown_points: set[Point] = set()
        self._shown_images: set[Point] = set()
        self._new: dict[Point, float] = {}

    def handle(self, event: Event, contents: Contents) -> None:
        match event:
            case RunStarted():
                self._start(event, contents)
            case Resumed():
                self._resume()
            case Logged():
                self._log(event, contents)
            case Observed():
                self._observe(event)
            case ModelSaved():
                self._log_model(event, contents)
            case ModelEvaluated():
                self._log_evaluation(event)
            case RunEnded():
                self._end(event, contents)
        self._events += 1

    def flush(self) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, time, step) for (name, step, time), value in self._new.items()
        ]
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._run_id, metrics[first : first + _BATCH])
        self._shown_points |= self._new.keys()
        self._new.clear()

    def close(self) -> None:
        self.flush()

    def _start(self, event: RunStarted, contents: Contents) -> None:
        """Create the run, or find it with what it has already: then only the rest is added."""
        from mlflow.entities import Param

        self._events = 0
        self._began = event.time
        self._params = {name_for(key): text_for(value) for key, value in event.params.items()}
        run = next(iter(self._links.search("record.id", event.id)), None) or self._create(event)
        if (run.info.start_time, run.data.tags.get("host")) != (event.time, event.host):
            raise RecordRefused(f"another run in MLflow has the id '{event.id}'.")
        self._run_id = run.info.run_id
        params = [Param(key, value) for key, value in self._params.items()]
        for first in range(0, len(params), 100):
            self._client.log_batch(self._run_id, params=params[first : first + 100])
        if event.dataset:
            self._client.log_inputs(self._run_id, [_dataset_input(event.dataset)])
        self._client.log_dict(self._run_id, dict(event.deps), "provenance/deps.json")
        if event.patch:
            patch = content_of(event.patch, contents).decode(errors="replace")
            self._client.log_text(self._run_id, patch, "provenance/change.patch")
        self._shown_points = points_of(self._client, run)
        self._links.describe(self._run_id)
        self._shown_images = set(pictures_of(self._client, self._run_id))

    def _resume(self) -> None:
        """The run had ended, and goes on."""
        if "error" in self._client.get_run(self._run_id).data.tags:
            self._client.delete_tag(self._run_id, "error")
        self._client.update_run(self._run_id, "RUNNING")

    def _create(self, event: RunStarted) -> "Run":
        tags = {
            **{name_for(key): value for key, value in event.tags.items()},
            "host": event.host,
            "mlflow.source.name": event.stage,
            "mlflow.source.type": "LOCAL",
            "record.id": event.id,
        }
        if commit := event.tags.get("git.commit"):
            tags["mlflow.source.git.commit"] = commit
        return self._client.create_run(self._experiment, event.time, tags, event.id)

    def _log(self, event: Logged, contents: Contents) -> None:
        for name, value in event.metrics.items():
            self._add_point(name, event.step, event.time, value)
        for title, file in event.images.items():
            self._log_image(title, content_of(file, contents), event.time, event.step)
        for title, file in {**event.texts, **event.artifacts}.items():
            suffix = "" if title in event.artifacts else ".txt"
            path = f"{file.name.partition('/')[0]}/{key_for(title)}{suffix}"
            self._log_bytes(path, content_of(file, contents))
        for key, text in event.tags.items():
            self._client.set_tag(self._run_id, name_for(key), text[:LONGEST_TAG])

    def _observe(self, event: Observed) -> None:
        """Show it where MLflow has its system metrics; the step is the run's second."""
        for name, value in event.values.items():
            self._add_point(SYSTEM + name, (event.time - self._began) // 1000, event.time, value)

    def _add_point(self, name: str, step: int, time: int, value: float) -> None:
        """Log a metric's value with the next flush, unless the run has that point."""
        point = (name_for(name), step, time)
        if point not in self._shown_points:
            self._new[point] = value

    def _log_image(self, title: str, image: bytes, time: int, step: int) -> None:
        key = key_for(title)
        if (key, step, time) not in self._shown_images:
            with Image.open(io.BytesIO(image), formats=["PNG"]) as pixels:
                self._client.log_image(self._run_id, pixels, key=key, step=step, timestamp=time)
            self._shown_images.add((key, step, time))

    def _log_bytes(self, path: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / path.rpartition("/")[2]
            file.write_bytes(content)
            self._client.log_artifact(self._run_id, str(file), path.rpartition("/")[0] or None)

    def _log_model(self, event: ModelSaved, contents: Contents) -> None:
        """Log the model as its project packs it; without that, its file."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.models import Model

        flavor, name = self._project.flavor, model_for(event.name)
        model = self._logged_model(name) or self._client.create_logged_model(
            self._experiment,
            name=name,
            source_run_id=self._run_id,
            tags={"model.sha256": event.file.sha256},
            params=self._params,
            model_type=flavor.kind if flavor else None,
        )
        outputs = self._client.get_run(self._run_id).outputs
        linked = {one.model_id for one in outputs.model_outputs} if outputs else set()
        if model.model_id not in linked:
            self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, event.step)])
        if model.status != LoggedModelStatus.READY:
            with tempfile.TemporaryDirectory() as folder:
                weights = Path(folder) / "file" / event.filename
                write_atomic(weights, contents[event.file.name])
                packed = Path(folder) / "model"
                if flavor:
                    of_run = Model(run_id=self._run_id, model_id=model.model_id)
                    flavor.save(weights, packed, of_run)
                else:
                    packed.mkdir()
                    weights.rename(packed / weights.name)
                self._client.log_model_artifacts(model.model_id, str(packed))
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self._client.set_tag(self._run_id, "model.id", model.model_id)
        self._client.set_tag(self._run_id, "model.sha256", event.file.sha256)
        self._links.to_evaluations(self._run_id, name, event.file.sha256)

    def _logged_model(self, name: str) -> "LoggedModel | None":
        """The model of that name that this run has already, whole or not."""
        found = self._client.search_logged_models(
            [self._experiment], f"source_run_id = '{self._run_id}' AND name = '{name}'"
        )
        return found[0] if found else None

    def _log_evaluation(self, event: ModelEvaluated) -> None:
        """The metrics go to this run, and to every training run that made that very model."""
        model = model_for(event.model)
        for name, value in event.metrics.items():
            self._add_point(f"{event.model}/{name}", 0, event.time, value)
        for name, points in event.series.items():
            for x, y in points:
                self._add_point(f"{event.model}/{name}", x, event.time, y)
        self.flush()
        self._client.set_tag(self._run_id, f"{model}.sha256", event.sha256)
        self._links.to_trainings(self._run_id, model, event.sha256)

    def _end(self, event: RunEnded, contents: Contents) -> None:
        self.flush()
        if event.message:
            self._client.set_tag(self._run_id, "error", event.message[:LONGEST_TAG])
        if event.changed:
            self._client.set_tag(
                self._run_id, "deps.changed", ", ".join(event.changed)[:LONGEST_TAG]
            )
        if event.traceback:
            self._client.log_text(self._run_id, event.traceback, "traceback.txt")
        if event.output:
            self._log_bytes("output.txt", content_of(event.output, contents))
        self._client.set_tag(self._run_id, EVENTS_TAG, str(self._events + 1))
        self._client.set_terminated(self._run_id, event.status, event.time)


def _dataset_input(dataset: Dataset) -> "DatasetInput":
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput

    source = json.dumps({"uri": dataset.source})
    return DatasetInput(MlflowDataset(dataset.name, dataset.digest, "local", source))
