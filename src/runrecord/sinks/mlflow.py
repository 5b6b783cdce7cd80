"""The MLflow sink: one MLflow run a run, known by its tag `record.id`."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

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
from runrecord.project import load_project
from runrecord.record.schema import RecordRefused
from runrecord.sinks.base import Sink, content_of, write_content
from runrecord.sinks.mlflow_links import Links
from runrecord.sinks.mlflow_shown import (
    BATCH,
    EVENTS_TAG,
    HAS_PICTURES,
    Point,
    artifacts_of,
    picture_files,
    pictures_of,
    points_of,
    put_files,
)
from runrecord.sinks.mlflow_store import connect
from runrecord.sinks.names import LONGEST_TAG, SYSTEM, key_for, model_for, name_for, text_for

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel, Run

_SMALL_BATCH = 100  # params, or tags, that MLflow takes at once
_FILES = 200  # that wait at most


class MlflowSink(Sink):
    """Plays a run's events into the tracking store of the main repository at `root`."""

    name = "MLflow"
    package = "mlflow"
    remedy = "'runrecord sync' completes MLflow later"

    def __init__(self, root: Path) -> None:
        self._project = load_project(root)
        self._client, self._experiment = connect(root)
        self._links = Links(self._client, self._experiment, self._project)
        self._began = 0
        self._events = 0
        self._forget()

    def _forget(self) -> None:
        """Begin with no run: what another one left unshown, when it failed, is not the next one's.

        What an event adds waits for the next flush: MLflow takes as long for one value as for all.
        """
        self._run_id = ""
        self._made_now = False
        self._params: dict[str, str] = {}
        self._shown_points: set[Point] = set()
        self._shown_pictures: dict[Point, str] = {}
        self._new_points: dict[Point, float] = {}
        self._new_params: dict[str, str] = {}
        self._new_tags: dict[str, str] = {}
        self._new_files: dict[str, bytes | Path] = {}

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
        from mlflow.entities import Metric, Param, RunTag

        if self._new_files:
            put_files(self._artifacts, self._new_files)
        points = self._new_points.items()
        metrics = [Metric(name, value, time, step) for (name, step, time), value in points]
        params = [Param(*param) for param in self._new_params.items()]
        tags = [RunTag(*tag) for tag in self._new_tags.items()]
        while metrics or params or tags:
            parts = metrics[:BATCH], params[:_SMALL_BATCH], tags[:_SMALL_BATCH]
            self._client.log_batch(self._run_id, *parts)
            del metrics[:BATCH], params[:_SMALL_BATCH], tags[:_SMALL_BATCH]
        self._shown_points |= self._new_points.keys()
        self._new_files, self._new_points = {}, {}
        self._new_params, self._new_tags = {}, {}

    def close(self) -> None:
        self.flush()

    def _start(self, event: RunStarted, contents: Contents) -> None:
        """Create the run, or find it with what it has already: then only the rest is added."""
        from mlflow.entities import Param, Run, RunData, RunInputs, RunTag

        self._forget()
        self._events = 0
        self._began = event.time
        self._params = {name_for(key): text_for(value) for key, value in event.params.items()}
        self._new_params = dict(self._params)
        found = self._links.search("record.id", event.id, count=1)
        run = found[0] if found else self._create(event)
        if (run.info.start_time, run.data.tags.get("host")) != (event.time, event.host):
            raise RecordRefused(f"another run in MLflow has the id '{event.id}'.")
        self._run_id = run.info.run_id
        self._artifacts = artifacts_of(self._client, run)
        self._made_now = not found
        datasets = [_dataset_input(event.dataset)] if event.dataset else []
        if datasets:
            self._client.log_inputs(self._run_id, datasets)
        deps = json.dumps(dict(event.deps), indent=2)
        self._new_files["provenance/deps.json"] = deps.encode()
        if event.patch:
            patch = content_of(event.patch, contents).decode(errors="replace")
            self._new_files["provenance/change.patch"] = patch.encode()
        if found:
            self._shown_points = points_of(self._client, run)
            self._shown_pictures = pictures_of(self._client, run)
        params = [Param(*param) for param in self._params.items()]
        tags = [RunTag(*tag) for tag in run.data.tags.items()]
        begun = Run(run.info, RunData([], params, tags), RunInputs(datasets))
        self._new_tags |= self._links.description(begun)

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
            point = (key_for(title), event.step, event.time)
            png = content_of(file, contents)
            self._new_files |= picture_files(point, png, self._shown_pictures)
            self._new_tags[HAS_PICTURES] = "True"
        for title, file in {**event.texts, **event.artifacts}.items():
            suffix = "" if title in event.artifacts else ".txt"
            path = f"{file.name.partition('/')[0]}/{key_for(title)}{suffix}"
            self._new_files[path] = contents[file.name]
        for key, text in event.tags.items():
            self._new_tags[name_for(key)] = text[:LONGEST_TAG]
        if len(self._new_files) > _FILES:
            self.flush()

    def _observe(self, event: Observed) -> None:
        """Show it where MLflow has its system metrics; the step is the run's second."""
        for name, value in event.values.items():
            self._add_point(SYSTEM + name, (event.time - self._began) // 1000, event.time, value)

    def _add_point(self, name: str, step: int, time: int, value: float) -> None:
        """Log a metric's value with the next flush, unless the run has that point."""
        point = (name_for(name), step, time)
        if point not in self._shown_points:
            self._new_points[point] = value

    def _log_model(self, event: ModelSaved, contents: Contents) -> None:
        """Log the model as its project packs it; without that, its file."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.models import Model

        flavor, name = self._project.flavor, model_for(event.name)
        model = None if self._made_now else self._logged_model(name)
        linked = model is not None and self._is_linked(model)
        model = model or self._client.create_logged_model(
            self._experiment,
            name=name,
            source_run_id=self._run_id,
            tags={"model.sha256": event.file.sha256},
            params=self._params,
            model_type=flavor.kind if flavor else None,
        )
        if not linked:
            self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, event.step)])
        if model.status != LoggedModelStatus.READY:
            with tempfile.TemporaryDirectory() as folder:
                weights, packed = Path(folder) / "file" / event.filename, Path(folder) / "model"
                write_content(contents[event.file.name], weights)
                if flavor:
                    of_run = Model(run_id=self._run_id, model_id=model.model_id)
                    flavor.save(weights, packed, of_run)
                else:
                    weights.parent.rename(packed)
                self._client.log_model_artifacts(model.model_id, str(packed))
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self._new_tags |= {"model.id": model.model_id, "model.sha256": event.file.sha256}
        self.flush()
        self._links.to_evaluations(self._run_id, name, event.file.sha256)

    def _is_linked(self, model: "LoggedModel") -> bool:
        outputs = self._client.get_run(self._run_id).outputs
        return bool(outputs) and model.model_id in {one.model_id for one in outputs.model_outputs}

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
        self._new_tags[f"{model}.sha256"] = event.sha256
        self.flush()
        self._links.to_trainings(self._run_id, model, event.sha256)

    def _end(self, event: RunEnded, contents: Contents) -> None:
        if event.message:
            self._new_tags["error"] = event.message[:LONGEST_TAG]
        if event.changed:
            self._new_tags["deps.changed"] = ", ".join(event.changed)[:LONGEST_TAG]
        if event.traceback:
            self._new_files["traceback.txt"] = event.traceback.encode(errors="replace")
        if event.output:
            self._new_files["output.txt"] = contents[event.output.name]
        self.flush()
        self._new_tags |= self._links.description(self._client.get_run(self._run_id))
        self._new_tags[EVENTS_TAG] = str(self._events + 1)
        self.flush()
        self._client.set_terminated(self._run_id, event.status, event.time)


def _dataset_input(dataset: Dataset) -> "DatasetInput":
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput

    source = json.dumps({"uri": dataset.source})
    return DatasetInput(MlflowDataset(dataset.name, dataset.digest, "local", source))
