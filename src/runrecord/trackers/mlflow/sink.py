"""The MLflow sink: one MLflow run a run, known by its tag `record.id`; and what joins such runs."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from runrecord.errors import UserError
from runrecord.project import Project, load_project
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
from runrecord.record.reader import EVALUATION
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
from runrecord.trackers.mlflow.store import connect, explain

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run

EVALUATED = "evaluated."
"""What the tags of an evaluation begin with that have a model's SHA-256, by the model's name."""
_EVALUATED_BY = "evaluation.run_id"
_TRAINED_BY = ".run_id"  # after a model's name: the tag of an evaluation with the training's id
_PARENT = "mlflow.parentRunId"  # MLflow's own name for the run beneath which one is shown
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
        tags = [RunTag(key, text_for(text)) for key, text in self._tags.items()]
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
            name, digest = text_for(data.name)[:500], text_for(data.digest)[:36]  # all it takes
            source = json.dumps({"uri": data.source[:LONGEST_TAG]})
            dataset = DatasetInput(Dataset(name, digest, "local", source))
            self.client.log_inputs(self.run_id, [dataset])
        self._links.of_study(self.run_id, event)

    def _create(self, event: RunStarted) -> "Run":
        tags = {
            **{name_for(key): text_for(value) for key, value in event.tags.items()},
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


class Links:
    """Links of the runs of one experiment. Whichever of two runs is shown last makes them.

    Of many runs of one model, an evaluation is linked with the newest training and a training with
    the newest evaluation, and either with those that had none: a run costs the same, however many
    there are.
    """

    def __init__(self, client: "MlflowClient", experiment: str, project: Project) -> None:
        self._client, self._experiment, self._project = client, experiment, project

    def of_model(self, title: str, digest: str) -> None:
        """Link the runs that made that very model with those that evaluated it."""
        model = model_for(title)
        made = f"tags.`model.sha256` = '{digest}' AND tags.`model.id` LIKE '%'"  # it has one
        read = f"tags.`{EVALUATED}{model}` = '{digest}'"
        trainings, evaluations = self._search(made, count=1), self._search(read, count=1)
        if not trainings or not evaluations:
            return
        newest = evaluations[0].info.run_id, trainings[0].info.run_id
        unlinked = self._search(f"{read} AND tags.`{model}{_TRAINED_BY}` IS NULL")
        pairs = [(run.info.run_id, newest[1]) for run in reversed(unlinked)]
        unlinked = self._search(f"{made} AND tags.`{_EVALUATED_BY}` IS NULL")
        pairs += [(newest[0], run.info.run_id) for run in reversed(unlinked)]
        for pair in [*(one for one in pairs if one != newest), newest]:  # which name each other
            self._link(*pair, title)

    def of_study(self, run_id: str, start: RunStarted) -> None:
        """Show a trial's run beneath its study's, whichever of them is shown last."""
        if study := start.tags.get("study.run"):
            for found in self._search(f"tags.`record.id` = '{study}'", count=1):
                self._client.set_tag(run_id, _PARENT, found.info.run_id)
        elif "study" in start.tags:
            for found in self._search(f"tags.`study.run` = '{start.id}'"):
                self._client.set_tag(found.info.run_id, _PARENT, run_id)

    def _search(self, wanted: str, count: int = 1000) -> "list[Run]":
        return [*search(self._client, self._experiment, wanted, count)]

    def _link(self, evaluation_id: str, training_id: str, title: str) -> None:
        """Make the model one that the evaluation read, and show what that found at the training.

        The tags that name the other come last: what was cut off before them is linked again.
        """
        from mlflow.entities import LoggedModelInput

        evaluation = self._client.get_run(evaluation_id)
        training = self._client.get_run(training_id)
        made = training.outputs.model_outputs[-1]
        if made.model_id not in {one.model_id for one in evaluation.inputs.model_inputs}:
            models = [LoggedModelInput(made.model_id)]
            self._client.log_inputs(evaluation_id, models=models)
        self._client.log_batch(training_id, [*self._points(evaluation, training, title)])
        self._client.set_tag(evaluation_id, f"{model_for(title)}{_TRAINED_BY}", training_id)
        self._client.set_tag(training_id, _EVALUATED_BY, evaluation_id)

    def _points(self, evaluation: "Run", training: "Run", title: str) -> "Iterator[Metric]":
        """The evaluation's main metrics, for the training; all where none is named."""
        from mlflow.entities import Metric

        made, read = training.outputs.model_outputs[-1], evaluation.inputs.dataset_inputs
        given = {"model_id": made.model_id}
        if read:
            data = read[0].dataset
            given |= {"dataset_name": data.name, "dataset_digest": data.digest}
        prefix = f"{name_for(title)}/"
        headline = {prefix + name_for(name) for name in self._project.headline}
        for point in evaluation.data.to_proto().metrics:
            name = point.key
            # A point of a curve has a step.
            if not point.step and (name in headline if headline else name.startswith(prefix)):
                shown, value = EVALUATION + name.removeprefix(prefix), evaluation.data.metrics[name]
                yield Metric(shown, value, point.timestamp, made.step, **given)
