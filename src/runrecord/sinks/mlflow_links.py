"""What joins MLflow runs: an evaluation with the runs that trained the models it read."""

import tempfile
from typing import TYPE_CHECKING

from PIL import Image

from runrecord.files import sha256
from runrecord.project import Project
from runrecord.sinks.description import EVALUATION, describe, evaluates
from runrecord.sinks.mlflow_shown import history_of, pictures_of
from runrecord.sinks.names import key_for, metrics_of, name_for, title_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_NOTE = "mlflow.note.content"  # MLflow's own name for a run's description
_NOTE_DIGEST = "description.sha256"
"""The SHA-256 of the description as it was written here: another one is a person's."""


class Links:
    """Links of the runs of one experiment. Whichever of two runs is shown last makes them."""

    def __init__(self, client: "MlflowClient", experiment: str, project: Project) -> None:
        self._client, self._experiment, self._project = client, experiment, project

    def search(self, tag: str, value: str) -> "list[Run]":
        """The runs with that tag, the oldest first."""
        return list(
            self._client.search_runs(
                [self._experiment],
                f"tags.`{tag}` = '{value}'",
                order_by=["attributes.start_time ASC"],
            )
        )

    def to_trainings(self, evaluation_id: str, model: str, digest: str) -> None:
        """Link an evaluation of a model to every run that made that very model."""
        for training in self._trainings(digest):
            self._connect(self._client.get_run(evaluation_id), training, model)

    def to_evaluations(self, training_id: str, model: str, digest: str) -> None:
        """Link the run that made a model to every evaluation of it."""
        training = self._client.get_run(training_id)
        for evaluation in self._evaluations(model, digest):
            self._connect(evaluation, training, model)

    def _trainings(self, digest: str) -> "list[Run]":
        return [run for run in self.search("model.sha256", digest) if "model.id" in run.data.tags]

    def _evaluations(self, model: str, digest: str) -> "list[Run]":
        found = self.search(f"{model}.sha256", digest)
        return [run for run in found if evaluates(run, model)]

    def _connect(self, evaluation: "Run", training: "Run", model: str) -> None:
        """Link both, and show the evaluation's metrics and pictures at the training too.

        Of the metrics, it is the project's headline, where it names one. Where several runs have
        the same model, each gets them, and the tags name the newest.
        """
        from mlflow.entities import LoggedModelInput, Metric

        evaluation_id, training_id = evaluation.info.run_id, training.info.run_id
        made = training.outputs.model_outputs[-1]
        model_id, epochs = made.model_id, made.step
        read = self._client.get_run(evaluation_id).inputs.dataset_inputs
        dataset = (
            {"dataset_name": read[0].dataset.name, "dataset_digest": read[0].dataset.digest}
            if read
            else {}
        )
        points: list[Metric] = []
        prefix = metrics_of(model)
        headline = {prefix + name_for(name) for name in self._project.headline}
        for key in evaluation.data.metrics:
            if key in headline if headline else key.startswith(prefix):
                name = EVALUATION + key.removeprefix(prefix)
                shown = name in training.data.metrics
                known = history_of(self._client, training_id, name).keys() if shown else ()
                for (_, place, time), value in history_of(self._client, evaluation_id, key).items():
                    step = place or epochs
                    if (name, step, time) not in known:
                        points.append(Metric(name, value, time, step, model_id=model_id, **dataset))
        self._client.log_batch(training_id, points)
        self._copy_pictures(evaluation_id, training_id, model, step=epochs)
        digest = training.data.tags["model.sha256"]
        newest = [evaluation, *self._evaluations(model, digest)][-1].info.run_id
        self._client.set_tag(training_id, "evaluation.run_id", newest)
        inputs = self._client.get_run(evaluation_id).inputs.model_inputs
        if model_id not in {entry.model_id for entry in inputs}:
            self._client.log_inputs(evaluation_id, models=[LoggedModelInput(model_id)])
        newest = self._trainings(digest)[-1].info.run_id
        self._client.set_tag(evaluation_id, f"{model}.run_id", newest)
        self.describe(training_id)
        self.describe(evaluation_id)

    def _copy_pictures(self, evaluation_id: str, training_id: str, model: str, step: int) -> None:
        """Show a model's own pictures of an evaluation beside its metrics, less those shown."""
        shown = pictures_of(self._client, training_id)
        prefix = f"{key_for(title_of(model))}_"
        for (title, _, time), path in pictures_of(self._client, evaluation_id).items():
            if title.startswith(prefix):
                key = EVALUATION + title.removeprefix(prefix)
                if (key, step, time) not in shown:
                    with tempfile.TemporaryDirectory() as folder:
                        file = self._client.download_artifacts(evaluation_id, path, folder)
                        with Image.open(file, formats=["PNG"]) as pixels:
                            self._client.log_image(
                                training_id, pixels, key=key, step=step, timestamp=time
                            )

    def describe(self, run_id: str) -> None:
        """Bring a run's description up to date, unless a person has written another."""
        from mlflow.entities import RunTag

        run = self._client.get_run(run_id)
        shown = run.data.tags.get(_NOTE)
        if shown is None or sha256(shown.encode()) == run.data.tags.get(_NOTE_DIGEST):
            text = describe(run, self._project)
            tags = [RunTag(_NOTE, text), RunTag(_NOTE_DIGEST, sha256(text.encode()))]
            self._client.log_batch(run_id, tags=tags)
