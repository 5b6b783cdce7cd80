"""The MLflow sink: one MLflow run a run, known by its tag `record.id`."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from runrecord.errors import UserError
from runrecord.project import load_project
from runrecord.record.events import (
    Contents,
    Event,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Observed,
    RecordRefused,
    Resumed,
    RunEnded,
    RunStarted,
)
from runrecord.safety.text import plain
from runrecord.trackers.base import LONGEST_TAG, SYSTEM, Sink, model_for, name_for, text_for
from runrecord.trackers.mlflow.artifacts import (
    EVENTS_TAG,
    PATCH_TAG,
    files_shown,
    points_shown,
    put_files,
    put_model,
    search,
)
from runrecord.trackers.mlflow.failures import explain
from runrecord.trackers.mlflow.links import EVALUATED, Links
from runrecord.trackers.mlflow.store import connect

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run

_HAS_PICTURES = "mlflow.loggedImages"  # by which MLflow's page knows that a run has pictures
_BATCH, _SMALL_BATCH = 800, 100  # metrics; and params, or tags, that MLflow takes at once


class MlflowSink(Sink):
    """Plays a run's events into the tracking store of the main repository at `root`.

    Params, metrics, tags and status come first; then files and, of a run that has ended, links and
    models: each of these may fail, and then the run lacks what a later replay adds.
    """

    name = "MLflow"
    package = "mlflow"
    remedy = "'runrecord sync' completes MLflow later"
    run_id: str
    """MLflow's, of the run that is played."""
    made_now: bool
    """The run was not there before."""
    _began: RunStarted

    def __init__(self, root: Path) -> None:
        self._root = root
        self._project = load_project(root)
        self.client, self.experiment = connect(root)
        self._links = Links(self.client, self.experiment, self._project)
        self._forget()

    def _forget(self) -> None:
        """Begin with no run: what another one left unshown, when it failed, is not the next one's.

        What an event adds waits for the next flush: MLflow takes as long for one value as for all.
        """
        self.owed = ""
        self._events = 0
        self._metrics: list[Metric] = []
        self._params: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._files: dict[str, bytes | Path] = {}
        self._last_steps: list[partial[None]] = []
        """Those for which no run's end waits."""
        self._ended = False

    def handle(self, event: Event, contents: Contents) -> None:
        from mlflow.entities import Metric

        match event:
            case RunStarted():
                self._start(event)
            case Resumed():  # the run had ended, and goes on
                if "error" in self.client.get_run(self.run_id).data.tags:
                    self.client.delete_tag(self.run_id, "error")
                self.client.update_run(self.run_id, "RUNNING")
            case Logged():
                if event.images:
                    self._tags[_HAS_PICTURES] = "True"
                for key, text in event.tags.items():
                    self._tags[name_for(key)] = text[:LONGEST_TAG]
            case Observed():  # MLflow has these among its system metrics, by a run's second
                second = (event.time - self._began.time) // 1000
                for name, value in event.values.items():
                    point = Metric(name_for(SYSTEM + name), value, event.time, second)
                    self._metrics.append(point)
            case ModelSaved():
                self._last_steps.append(partial(self._log_model, event, contents))
            case ModelEvaluated():
                self._tags[EVALUATED + model_for(event.model)] = event.sha256
                self._last_steps.append(partial(self._links.of_model, event.model, event.sha256))
            case RunEnded():
                self._end(event)
        for name, step, value in points_shown(event):
            self._metrics.append(Metric(name, value, event.time, step))
        self._files |= files_shown(event, contents)
        self._events += 1

    def flush(self) -> None:
        self._send()
        files, self._files = self._files, {}
        steps = [partial(put_files, self.client, self.run_id, files)] if files else []
        if self._ended:
            steps += self._last_steps
            self._last_steps = []
        for step in steps:
            try:
                step()
            except Exception as error:
                self.owed = self.owed or self.why(error, self._root)
        if self._ended and not self.owed:
            self._tags[EVENTS_TAG] = str(self._events)
            self._send()

    def _send(self) -> None:
        """Send all but files, models and links."""
        from mlflow.entities import Param, RunTag

        params = [Param(*param) for param in self._params.items()]
        tags = [RunTag(*tag) for tag in self._tags.items()]
        while self._metrics or params or tags:
            parts = self._metrics[:_BATCH], params[:_SMALL_BATCH], tags[:_SMALL_BATCH]
            self.client.log_batch(self.run_id, *parts)
            del self._metrics[:_BATCH], params[:_SMALL_BATCH], tags[:_SMALL_BATCH]
        self._params, self._tags = {}, {}

    @classmethod
    def why(cls, error: Exception, root: Path) -> str:
        return explain(error, root)

    def _start(self, event: RunStarted) -> None:
        """Create the run, or find it with what it has already: then only the rest is added."""
        from mlflow.entities import Dataset, DatasetInput

        self._forget()
        self._began = event
        named = f"tags.`record.id` = '{event.id}'"
        found = [*search(self.client, self.experiment, named, deleted=True)]
        found.sort(key=lambda one: one.info.lifecycle_stage == "deleted")  # the active one first
        run = found[0] if found else self._create(event)
        if run.info.lifecycle_stage == "deleted":
            raise UserError("a person deleted the run there; 'runrecord sync RUN' brings it back")
        if (run.info.start_time, run.data.tags.get("host")) != (event.time, event.host):
            raise RecordRefused(f"another run in MLflow has the id '{event.id}'.")
        self.run_id = run.info.run_id
        self.made_now = not found
        self._params = self._params_of(event)
        if data := event.dataset:
            source = json.dumps({"uri": data.source})
            dataset = DatasetInput(Dataset(data.name, data.digest, "local", source))
            self.client.log_inputs(self.run_id, [dataset])
        self._links.of_study(self.run_id, event)

    def _create(self, event: RunStarted) -> "Run":
        tags = {
            **{name_for(key): value for key, value in event.tags.items()},
            "host": event.host,
            "mlflow.source.name": event.stage,
            "mlflow.source.type": "LOCAL",
            "mlflow.note.content": self._description_of(event),
            "record.id": event.id,
        }
        if commit := event.tags.get("git.commit"):
            tags["mlflow.source.git.commit"] = commit
        if event.patch:
            tags[PATCH_TAG] = event.patch.sha256
        return self.client.create_run(self.experiment, event.time, tags, event.id)

    def _description_of(self, event: RunStarted) -> str:
        """What was run, and how to get it again, in Markdown."""
        params = self._params_of(event)
        named = [
            f"{plain(name)} {plain(params[name])}"
            for name in self._project.params
            if name in params
        ]
        rebuild = f"To rebuild and compare it: `runrecord verify {event.id}`"
        return "\n\n".join(filter(None, [", ".join(named), rebuild]))

    @staticmethod
    def _params_of(event: RunStarted) -> dict[str, str]:
        return {name_for(key): text_for(value) for key, value in event.params.items()}

    def _log_model(self, event: ModelSaved, contents: Contents) -> None:
        """Say that the run made a model; then link it, and put its files there."""
        name = model_for(event.name)
        model = self._model(event, name)
        self._tags |= {"model.sha256": event.file.sha256, "model.id": model.model_id}
        self._send()
        self._links.of_model(event.name, event.file.sha256)
        put_model(self.client, model, event, contents, self._project.flavor)

    def _model(self, event: ModelSaved, name: str) -> "LoggedModel":
        """The model that the run made, whole or not: registered, unless it was before."""
        from mlflow.entities import LoggedModelOutput

        wanted = f"source_run_id = '{self.run_id}' AND name = '{name}'"
        found = self.client.search_logged_models([self.experiment], wanted)
        flavor = self._project.flavor
        model = next(iter(found), None) or self.client.create_logged_model(
            self.experiment,
            name=name,
            source_run_id=self.run_id,
            tags={"model.sha256": event.file.sha256},
            params=self._params_of(self._began),
            model_type=flavor.kind if flavor else None,
        )
        outputs = self.client.get_run(self.run_id).outputs
        linked = outputs.model_outputs if outputs else []
        if model.model_id not in {one.model_id for one in linked}:
            output = LoggedModelOutput(model.model_id, event.step)
            self.client.log_outputs(self.run_id, [output])
        return model

    def _end(self, event: RunEnded) -> None:
        if event.message:
            self._tags["error"] = event.message[:LONGEST_TAG]
        if event.changed:
            self._tags["deps.changed"] = ", ".join(event.changed)[:LONGEST_TAG]
        self._send()
        self.client.set_terminated(self.run_id, event.status, event.time)
        self._ended = True
