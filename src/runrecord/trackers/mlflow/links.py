"""What joins MLflow runs: an evaluation with the runs that trained the models it read."""

import tempfile
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

from runrecord.project import Project
from runrecord.record.events import RunStarted
from runrecord.store.files import sha256
from runrecord.trackers.description import BY, EVALUATION, describe, evaluates
from runrecord.trackers.mlflow.artifacts import (
    BATCH,
    HAS_PICTURES,
    Point,
    artifacts_of,
    history_of,
    latest_points,
    picture_files,
    pictures_of,
    put_files,
)
from runrecord.trackers.names import key_for, metrics_of, name_for, title_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

MODEL_STEP = "model.step"
"""The tag of a run, on a server that keeps no models beside runs, with its model's step."""
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
        self._knows_null = True

    def search(
        self, tag: str, value: str, without: str = "", more: str = "", count: int = 1000
    ) -> "list[Run]":
        """The runs with that tag and, if so said, without another, the newest first."""
        from mlflow.exceptions import MlflowException

        wanted = f"tags.`{tag}` = '{value}'{more}"
        asked = f"{wanted} AND tags.`{without}` IS NULL" if without and self._knows_null else wanted
        try:
            found = self._client.search_runs(
                [self._experiment],
                asked,
                order_by=["attributes.start_time DESC"],
                max_results=count,
            )
        except MlflowException as error:
            if asked == wanted or error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            self._knows_null = False  # it is a server of MLflow 2
            return self.search(tag, value, without, more)
        return [run for run in found if not without or without not in run.data.tags][:count]

    def to_trainings(self, evaluation_id: str, model: str, digest: str, again: bool) -> None:
        """Link an evaluation of a model to the runs that made that very model.

        Done `again`, those with which it was linked get what they lack.
        """
        newest, evaluations = self._trainings(digest, count=1), self._evaluations(model, digest)
        if not newest or not evaluations:
            return
        (latest,) = evaluations
        others = self._trainings(digest, BY)
        if again:
            others += self._trainings(digest, more=f" AND tags.`{BY}` = '{evaluation_id}'")
        for training in {run.info.run_id: run for run in [*newest, *others]}.values():
            evaluation = self._client.get_run(evaluation_id)
            self._connect(evaluation, training, model)
            self._name(evaluation_id, training.info.run_id, model, newest[0], latest)
            self.describe(training.info.run_id)
            self._copy_pictures(evaluation, training, model)

    def to_evaluations(self, training_id: str, model: str, digest: str, again: bool) -> None:
        """Link the run that made a model to the newest evaluation, and to those that had none.

        Done `again`, those with which it was linked get what they lack.
        """
        by = f"{model}.run_id"
        for latest in self._evaluations(model, digest):
            newest = self._trainings(digest, count=1)[0]
            others = self._evaluations(model, digest, by, count=1000)
            if again:
                mine = f" AND tags.`{by}` = '{training_id}'"
                others += self._evaluations(model, digest, more=mine, count=1000)
            found = {run.info.run_id: run for run in [*reversed(others), latest]}
            for evaluation_id in found:
                training = self._client.get_run(training_id)
                evaluation = self._client.get_run(evaluation_id)
                self._connect(evaluation, training, model)
                self._name(evaluation_id, training_id, model, newest, latest)
                self.describe(evaluation_id)
                self._copy_pictures(evaluation, training, model)

    def with_study(self, run_id: str, start: RunStarted) -> None:
        """Show a trial's run beneath its study's, whichever of them is shown last."""
        if study := start.tags.get("study.run"):
            for found in self.search("record.id", study, count=1):
                self._client.set_tag(run_id, _PARENT, found.info.run_id)
        elif "study" in start.tags:
            for found in self.search("study.run", start.id):
                self._client.set_tag(found.info.run_id, _PARENT, run_id)

    def _trainings(
        self, digest: str, without: str = "", more: str = "", count: int = 1000
    ) -> "list[Run]":
        made = f" AND tags.`model.id` LIKE '%'{more}"  # it has one
        return self.search("model.sha256", digest, without, made, count)

    def _evaluations(
        self, model: str, digest: str, without: str = "", more: str = "", count: int = 1
    ) -> "list[Run]":
        """The evaluations of a model, the newest first: that alone, unless more are asked for."""
        tag = f"{model}.sha256"
        found = self.search(tag, digest, without, more, count)
        if found and not evaluates(found[0], model):  # "model.sha256" is a training's tag, too
            found = self.search(tag, digest, without, more)
        return [run for run in found if evaluates(run, model)][:count]

    def _name(
        self, evaluation_id: str, training_id: str, model: str, newest: "Run", latest: "Run"
    ) -> None:
        """Name the newest training at an evaluation, and the latest evaluation at a training.

        This comes after the metrics: a training that names an evaluation has them.
        """
        self._client.set_tag(evaluation_id, f"{model}.run_id", newest.info.run_id)
        self._client.set_tag(training_id, BY, latest.info.run_id)

    def _connect(self, evaluation: "Run", training: "Run", model: str) -> None:
        """Make the model one that the evaluation read, and show what that found at the training.

        Of the metrics, it is the project's headline, where it names one.
        """
        from mlflow.entities import LoggedModelInput

        model_id, _ = _made(training)
        if model_id and model_id not in {one.model_id for one in evaluation.inputs.model_inputs}:
            model_input = LoggedModelInput(model_id)
            self._client.log_inputs(evaluation.info.run_id, models=[model_input])
        points = self._points(evaluation, training, model)
        for first in range(0, len(points), BATCH):
            self._client.log_batch(training.info.run_id, points[first : first + BATCH])

    def _points(self, evaluation: "Run", training: "Run", model: str) -> "list[Metric]":
        """The points of an evaluation's metrics that the training lacks, as it has them."""
        from mlflow.entities import Metric

        (model_id, made_at), read = _made(training), evaluation.inputs.dataset_inputs
        dataset = (
            {"dataset_name": read[0].dataset.name, "dataset_digest": read[0].dataset.digest}
            if read
            else {}
        )
        prefix = metrics_of(model)
        headline = {prefix + name_for(name) for name in self._project.headline}
        shown = latest_points(training)
        found: list[Metric] = []
        for key, (last, time) in latest_points(evaluation).items():
            if not (key in headline if headline else key.startswith(prefix)):
                continue
            name = EVALUATION + key.removeprefix(prefix)
            points = {(key, 0, time): evaluation.data.metrics[key]}
            if last > 0:  # it is a curve
                points = history_of(self._client, evaluation.info.run_id, key)
            new = [
                Metric(name, value, time, step or made_at, model_id=model_id, **dataset)
                for (_, step, time), value in points.items()
            ]
            known: Container[Point] = ()
            if name in shown and shown[name] >= min((one.step, one.timestamp) for one in new):
                known = history_of(self._client, training.info.run_id, name)
            found += [one for one in new if (name, one.step, one.timestamp) not in known]
        return found

    def _copy_pictures(self, evaluation: "Run", training: "Run", model: str) -> None:
        """Show a model's own pictures of an evaluation beside its metrics, less those shown."""
        _, step = _made(training)
        prefix = f"{key_for(title_of(model))}_"
        own = {
            (EVALUATION + title.removeprefix(prefix), step, time): path
            for (title, _, time), path in pictures_of(self._client, evaluation).items()
            if title.startswith(prefix)
        }
        if not own:
            return
        shown = pictures_of(self._client, training)
        files: dict[str, bytes] = {}
        source = artifacts_of(self._client, evaluation)
        with tempfile.TemporaryDirectory() as folder:
            for point, path in own.items():
                png = Path(source.download_artifacts(path, folder)).read_bytes()
                files |= picture_files(point, png, shown)
        put_files(artifacts_of(self._client, training), files)
        self._client.set_tag(training.info.run_id, HAS_PICTURES, "True")

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


def _made(training: "Run") -> tuple[str | None, int]:
    """The id of the model that a run made, where it has one, and its step."""
    outputs = training.outputs.model_outputs if training.outputs else []
    if outputs:
        return outputs[-1].model_id, outputs[-1].step
    return None, int(training.data.tags.get(MODEL_STEP, 0))
