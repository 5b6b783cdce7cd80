"""What joins MLflow runs: trainings and evaluations of a model, a study and its trials."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from runrecord.files import sha256
from runrecord.project import Project
from runrecord.record.events import RunStarted
from runrecord.record.reader import EVALUATION
from runrecord.safety.text import plain
from runrecord.trackers.base import metrics_of, name_for, title_of
from runrecord.trackers.mlflow.artifacts import search

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EVALUATED = "evaluated."
"""What the tags of an evaluation begin with that have a model's SHA-256, by the model's name."""
_EVALUATED_BY = "evaluation.run_id"
_TRAINED_BY = ".run_id"  # after a model's name: the tag of an evaluation with the training's id
_PARENT = "mlflow.parentRunId"  # MLflow's own name for the run beneath which one is shown
_NOTE = "mlflow.note.content"  # MLflow's own name for a run's description
_NOTE_DIGEST = "description.sha256"
"""The SHA-256 of the description as it was written here: another one is a person's."""


class Links:
    """Links of the runs of one experiment. Whichever of two runs is shown last makes them.

    Of many runs of one model, an evaluation is linked with the newest training and a training with
    the newest evaluation, and either with those that had none: a run costs the same, however many
    there are.
    """

    def __init__(self, client: "MlflowClient", experiment: str, project: Project) -> None:
        self._client, self._experiment, self._project = client, experiment, project

    def of_model(self, model: str, digest: str) -> None:
        """Link the runs that made that very model with those that evaluated it."""
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
            self._link(*pair, model)

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

    def _link(self, evaluation_id: str, training_id: str, model: str) -> None:
        """Make the model one that the evaluation read, and show what that found at the training.

        The tags that name the other come last: what was cut off before them is linked again.
        """
        from mlflow.entities import LoggedModelInput, RunTag

        evaluation = self._client.get_run(evaluation_id)
        training = self._client.get_run(training_id)
        made = training.outputs.model_outputs[-1]
        if made.model_id not in {one.model_id for one in evaluation.inputs.model_inputs}:
            models = [LoggedModelInput(made.model_id)]
            self._client.log_inputs(evaluation_id, models=models)
        self._client.log_batch(training_id, [*self._points(evaluation, training, model)])
        named = {f"{model}{_TRAINED_BY}": training_id}, {_EVALUATED_BY: evaluation_id}
        for run, tags in zip((evaluation, training), named, strict=True):
            tags |= self.description(run, run.data.tags | tags, run.data.params)
            self._client.log_batch(run.info.run_id, tags=[RunTag(*one) for one in tags.items()])

    def _points(self, evaluation: "Run", training: "Run", model: str) -> "Iterator[Metric]":
        """The evaluation's main metrics, for the training; all where none is named."""
        from mlflow.entities import Metric

        made, read = training.outputs.model_outputs[-1], evaluation.inputs.dataset_inputs
        given = {"model_id": made.model_id}
        if read:
            data = read[0].dataset
            given |= {"dataset_name": data.name, "dataset_digest": data.digest}
        prefix = metrics_of(model)
        headline = {prefix + name_for(name) for name in self._project.headline}
        for point in evaluation.data.to_proto().metrics:
            name = point.key
            # A point of a curve has a step.
            if not point.step and (name in headline if headline else name.startswith(prefix)):
                shown, value = EVALUATION + name.removeprefix(prefix), evaluation.data.metrics[name]
                yield Metric(shown, value, point.timestamp, made.step, **given)

    def description(
        self, run: "Run", tags: Mapping[str, str], params: Mapping[str, str]
    ) -> dict[str, str]:
        """The tags of the description of a run that has these, unless a person wrote another.

        It says what was run and how to get it again, and leads to the runs that it is linked with.
        """
        shown = tags.get(_NOTE)
        if shown is not None and sha256(shown.encode()) != tags.get(_NOTE_DIGEST):
            return {}
        named = [name for name in self._project.params if name in params]
        lines = [", ".join(f"{plain(name)} {plain(params[name])}" for name in named)]
        models = sorted(tag.removeprefix(EVALUATED) for tag in tags if tag.startswith(EVALUATED))
        trained_by = {model: tags.get(f"{model}{_TRAINED_BY}") for model in models}
        lines += [
            f"Evaluates {_link_to(run, training, title_of(model))}"
            for model, training in trained_by.items()
            if training
        ]
        if evaluation := tags.get(_EVALUATED_BY):
            lines.append(f"Test metrics are from {_link_to(run, evaluation, 'its evaluation')}")
        lines.append(f"To rebuild and compare it: `runrecord verify {run.info.run_name}`")
        text = "\n\n".join(filter(None, lines))
        return {_NOTE: text, _NOTE_DIGEST: sha256(text.encode())}


def _link_to(run: "Run", run_id: str, text: str) -> str:
    return f"[{plain(text)}](#/experiments/{run.info.experiment_id}/runs/{run_id})"
