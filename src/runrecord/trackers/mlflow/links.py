"""What joins MLflow runs: evaluations and the trainings of their models, studies and trials."""

from typing import TYPE_CHECKING

from runrecord.files import sha256
from runrecord.project import Project
from runrecord.record.events import RunStarted
from runrecord.record.reader import EVALUATION
from runrecord.trackers.description import BY, describe, evaluates
from runrecord.trackers.mlflow.artifacts import BATCH, latest_points
from runrecord.trackers.names import metrics_of, name_for

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

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

    def search(
        self, tag: str, value: str, more: str = "", count: int = 1000, deleted: bool = False
    ) -> "list[Run]":
        """The runs with that tag, the newest first; deleted ones too, if so said."""
        from mlflow.entities import ViewType

        return list(
            self._client.search_runs(
                [self._experiment],
                f"tags.`{tag}` = '{value}'{more}",
                ViewType.ALL if deleted else ViewType.ACTIVE_ONLY,
                order_by=["attributes.start_time DESC"],
                max_results=count,
            )
        )

    def to_trainings(self, evaluation_id: str, model: str, digest: str) -> None:
        """Link an evaluation of a model to the runs that made that very model."""
        newest = self._trainings(digest, count=1)
        latest = self._evaluations(model, digest)[:1]
        if newest and latest:
            others = self._trainings(digest, f" AND tags.`{BY}` IS NULL")
            for run in {one.info.run_id: one for one in [*newest, *others]}:
                self._link(evaluation_id, run, model, newest[0], latest[0])

    def to_evaluations(self, training_id: str, model: str, digest: str) -> None:
        """Link the run that made a model to the newest evaluation, and to those that had none."""
        if latest := self._evaluations(model, digest)[:1]:
            newest = self._trainings(digest, count=1)
            others = self._evaluations(model, digest, f" AND tags.`{model}.run_id` IS NULL")
            for run in {one.info.run_id: one for one in [*reversed(others), *latest]}:
                self._link(run, training_id, model, newest[0], latest[0])

    def with_study(self, run_id: str, start: RunStarted) -> None:
        """Show a trial's run beneath its study's, whichever of them is shown last."""
        if study := start.tags.get("study.run"):
            for found in self.search("record.id", study, count=1):
                self._client.set_tag(run_id, _PARENT, found.info.run_id)
        elif "study" in start.tags:
            for found in self.search("study.run", start.id):
                self._client.set_tag(found.info.run_id, _PARENT, run_id)

    def _trainings(self, digest: str, more: str = "", count: int = 1000) -> "list[Run]":
        made = f" AND tags.`model.id` LIKE '%'{more}"  # it has one
        return self.search("model.sha256", digest, made, count)

    def _evaluations(self, model: str, digest: str, more: str = "") -> "list[Run]":
        """The evaluations of a model, the newest first; "model.sha256" is a training's tag, too."""
        count = 1000 if more or model == "model" else 1
        found = self.search(f"{model}.sha256", digest, more, count)
        return [run for run in found if evaluates(run, model)]

    def _link(
        self, evaluation_id: str, training_id: str, model: str, newest: "Run", latest: "Run"
    ) -> None:
        """Make the model one that the evaluation read, and show what that found at the training.

        An evaluation names the newest training, a training the latest evaluation. These tags come
        last: what was cut off before them is linked again.
        """
        from mlflow.entities import LoggedModelInput

        evaluation = self._client.get_run(evaluation_id)
        training = self._client.get_run(training_id)
        made = training.outputs.model_outputs[-1]
        if made.model_id not in {one.model_id for one in evaluation.inputs.model_inputs}:
            self._client.log_inputs(evaluation_id, models=[LoggedModelInput(made.model_id)])
        points = self._points(evaluation, training, model)
        for first in range(0, len(points), BATCH):
            self._client.log_batch(training_id, points[first : first + BATCH])
        self._client.set_tag(evaluation_id, f"{model}.run_id", newest.info.run_id)
        self._client.set_tag(training_id, BY, latest.info.run_id)
        self.describe(evaluation_id)
        self.describe(training_id)

    def _points(self, evaluation: "Run", training: "Run", model: str) -> "list[Metric]":
        """The evaluation's main metrics that the training lacks; all where none is named."""
        from mlflow.entities import Metric

        made, read = training.outputs.model_outputs[-1], evaluation.inputs.dataset_inputs
        dataset = (
            {"dataset_name": read[0].dataset.name, "dataset_digest": read[0].dataset.digest}
            if read
            else {}
        )
        prefix, shown = metrics_of(model), latest_points(training)
        headline = {prefix + name_for(name) for name in self._project.headline}
        found: list[Metric] = []
        for key, (step, time) in latest_points(evaluation).items():
            if step or not (key in headline if headline else key.startswith(prefix)):
                continue  # a curve, or another's
            name, point = EVALUATION + key.removeprefix(prefix), (made.step, time)
            if shown.get(name) != point:
                value = evaluation.data.metrics[key]
                given = {"model_id": made.model_id, **dataset}
                found.append(Metric(name, value, time, made.step, **given))
        return found

    def describe(self, run_id: str) -> None:
        """Bring a run's description up to date, unless a person has written another."""
        from mlflow.entities import RunTag

        run = self._client.get_run(run_id)
        tags = [RunTag(key, text) for key, text in self.description(run).items()]
        if tags:
            self._client.log_batch(run_id, tags=tags)

    def description(self, run: "Run") -> dict[str, str]:
        """The tags of a run's description as it is now, unless a person has written another."""
        shown = run.data.tags.get(_NOTE)
        if shown is not None and sha256(shown.encode()) != run.data.tags.get(_NOTE_DIGEST):
            return {}
        text = describe(run, self._project)
        return {_NOTE: text, _NOTE_DIGEST: sha256(text.encode())}
