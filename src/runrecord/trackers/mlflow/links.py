"""What joins MLflow runs: trainings and evaluations of a model, a study and its trials."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from runrecord.project import Project
from runrecord.record.events import RunStarted
from runrecord.record.reader import EVALUATION
from runrecord.trackers.base import model_for, name_for
from runrecord.trackers.mlflow.artifacts import search

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EVALUATED = "evaluated."
"""What the tags of an evaluation begin with that have a model's SHA-256, by the model's name."""
_EVALUATED_BY = "evaluation.run_id"
_TRAINED_BY = ".run_id"  # after a model's name: the tag of an evaluation with the training's id
_PARENT = "mlflow.parentRunId"  # MLflow's own name for the run beneath which one is shown


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
