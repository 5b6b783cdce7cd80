"""What joins MLflow runs, and what each says at its top: evaluations and trainings, studies."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from runrecord.files import sha256
from runrecord.project import Project
from runrecord.record.events import RunStarted
from runrecord.record.reader import EVALUATION
from runrecord.trackers.base import metrics_of, name_for, plain, title_of
from runrecord.trackers.mlflow.artifacts import BATCH, search

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EVALUATED_BY = "evaluation.run_id"
"""The tag of a training that names its evaluation."""
_PARENT = "mlflow.parentRunId"  # MLflow's own name for the run beneath which one is shown
_NOTE = "mlflow.note.content"  # MLflow's own name for a run's description
_NOTE_DIGEST = "description.sha256"
"""The SHA-256 of the description as it was written here: another one is a person's."""
_NAMED = 8  # params and metrics that a description has, if the project names none


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
        newest, latest = self._trainings(digest, count=1), self._evaluations(model, digest)[:1]
        if not newest or not latest:
            return
        others = self._trainings(digest, f" AND tags.`{EVALUATED_BY}` IS NULL")
        trainings = {run.info.run_id: run for run in [*newest, *others]}
        others = self._evaluations(model, digest, f" AND tags.`{model}.run_id` IS NULL")
        pairs = [(evaluation.info.run_id, newest[0].info.run_id) for evaluation in reversed(others)]
        pairs += [(latest[0].info.run_id, training) for training in trainings]
        for evaluation_id, training_id in dict.fromkeys(pairs):
            self._link(evaluation_id, training_id, model, newest[0], latest[0])

    def of_study(self, run_id: str, start: RunStarted) -> None:
        """Show a trial's run beneath its study's, whichever of them is shown last."""
        if study := start.tags.get("study.run"):
            for found in self._search("record.id", study, count=1):
                self._client.set_tag(run_id, _PARENT, found.info.run_id)
        elif "study" in start.tags:
            for found in self._search("study.run", start.id):
                self._client.set_tag(found.info.run_id, _PARENT, run_id)

    def _search(self, tag: str, value: str, more: str = "", count: int = 1000) -> "list[Run]":
        """The runs with that tag, the newest first."""
        return [*search(self._client, self._experiment, f"tags.`{tag}` = '{value}'{more}", count)]

    def _trainings(self, digest: str, more: str = "", count: int = 1000) -> "list[Run]":
        made = f" AND tags.`model.id` LIKE '%'{more}"  # it has one
        return self._search("model.sha256", digest, made, count)

    def _evaluations(self, model: str, digest: str, more: str = "") -> "list[Run]":
        """The evaluations of a model, the newest first; "model.sha256" is a training's tag, too."""
        count = 1000 if more or model == "model" else 1
        found = self._search(f"{model}.sha256", digest, more, count)
        return [run for run in found if _evaluates(run, model)]

    def _link(
        self, evaluation_id: str, training_id: str, model: str, newest: "Run", latest: "Run"
    ) -> None:
        """Make the model one that the evaluation read, and show what that found at the training.

        An evaluation names the newest training, a training the latest evaluation. These tags come
        last: what was cut off before them is linked again.
        """
        from mlflow.entities import LoggedModelInput, RunTag

        evaluation = self._client.get_run(evaluation_id)
        training = self._client.get_run(training_id)
        made = training.outputs.model_outputs[-1]
        if made.model_id not in {one.model_id for one in evaluation.inputs.model_inputs}:
            self._client.log_inputs(evaluation_id, models=[LoggedModelInput(made.model_id)])
        points = self._points(evaluation, training, model)
        for first in range(0, len(points), BATCH):
            self._client.log_batch(training_id, points[first : first + BATCH])
        self._client.set_tag(evaluation_id, f"{model}.run_id", newest.info.run_id)
        self._client.set_tag(training_id, EVALUATED_BY, latest.info.run_id)
        for run_id in (evaluation_id, training_id):
            tags = self.description(self._client.get_run(run_id))
            self._client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])

    def _points(self, evaluation: "Run", training: "Run", model: str) -> "list[Metric]":
        """The evaluation's main metrics that the training lacks; all where none is named."""
        from mlflow.entities import Metric

        made, read = training.outputs.model_outputs[-1], evaluation.inputs.dataset_inputs
        dataset = (
            {"dataset_name": read[0].dataset.name, "dataset_digest": read[0].dataset.digest}
            if read
            else {}
        )
        prefix, shown = metrics_of(model), _latest_points(training)
        headline = {prefix + name_for(name) for name in self._project.headline}
        found: list[Metric] = []
        for key, (step, time) in _latest_points(evaluation).items():
            if step or not (key in headline if headline else key.startswith(prefix)):
                continue  # a curve, or another's
            name, point = EVALUATION + key.removeprefix(prefix), (made.step, time)
            if shown.get(name) != point:
                value = evaluation.data.metrics[key]
                given = {"model_id": made.model_id, **dataset}
                found.append(Metric(name, value, time, made.step, **given))
        return found

    def description(self, run: "Run") -> dict[str, str]:
        """The tags of a run's description as it is now, unless a person has written another.

        It says what the run is, its main metrics, what it comes from, and how to get it again.
        """
        shown = run.data.tags.get(_NOTE)
        if shown is not None and sha256(shown.encode()) != run.data.tags.get(_NOTE_DIGEST):
            return {}
        models = [tag.removesuffix(".sha256") for tag in run.data.tags if tag.endswith(".sha256")]
        evaluated = [model for model in models if _evaluates(run, model)]
        lines = [
            self._of_evaluation(run, evaluated) if evaluated else self._of_training(run),
            _origin(run),
            f"Rebuild it and compare every bit: `runrecord verify {run.info.run_name}`, in a clone "
            "that has that commit.",
        ]
        text = "\n\n".join(filter(None, lines))
        return {_NOTE: text, _NOTE_DIGEST: sha256(text.encode())}

    def _of_training(self, run: "Run") -> str:
        """What it was run with; and its test metrics, if it made a model that was evaluated."""
        named = self._project.params or tuple(run.data.params)[:_NAMED]
        params = ", ".join(
            f"{plain(title_of(name))} {plain(run.data.params[name])}"
            for name in named
            if name in run.data.params
        )
        source = run.data.tags.get("mlflow.source.name", "")
        name = run.data.params.get("model", "").upper() or source
        text = f"**{plain(name)}**" + (f": {params}." if params else "")
        if EVALUATED_BY in run.data.tags:
            link = _link_to(run, run.data.tags[EVALUATED_BY], "its evaluation")
            text += f"\n\nTest metrics, from {link}: {self._metrics(run, EVALUATION)}."
        return text

    def _of_evaluation(self, run: "Run", evaluated: Iterable[str]) -> str:
        lines = ["**Evaluation** of trained models:\n"]
        for model in sorted(evaluated):
            training, name = run.data.tags.get(f"{model}.run_id"), plain(title_of(model).upper())
            shown = _link_to(run, training, f"{name}, its training") if training else name
            lines.append(f"- {shown}: {self._metrics(run, metrics_of(model))}")
        return "\n".join(lines)

    def _metrics(self, run: "Run", prefix: str) -> str:
        metrics = run.data.metrics
        own = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
        found = [
            f"{title_of(name).rpartition('/')[2]} {metrics[prefix + name]:.5g}"
            for name in self._project.headline or own[:_NAMED]
            if prefix + name in metrics
        ]
        return plain(", ".join(found)) if found else "none yet"


def _evaluates(run: "Run", model: str) -> bool:
    """Has that run the metrics of an evaluated model of that name?"""
    return any(key.startswith(metrics_of(model)) for key in run.data.metrics)


def _latest_points(run: "Run") -> dict[str, tuple[int, int]]:
    """The step and time of the last point of each of a run's metrics, by its name."""
    points = run.data.to_proto().metrics
    return {point.key: (point.step, point.timestamp) for point in points}


def _origin(run: "Run") -> str:
    tags = run.data.tags
    parts = []
    if commit := tags.get("git.commit"):
        dirty = " with uncommitted changes" if tags.get("git.dirty") == "true" else ""
        parts.append(f"commit {plain(commit[:10])}{dirty}")
    if experiment := tags.get("dvc.experiment"):
        parts.append(f"as the DVC experiment {plain(experiment)}")
    datasets = [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
    parts += [f"data {plain(data.name)} {plain(data.digest)}" for data in datasets]
    return f"Made from {', '.join(parts)}" if parts else ""


def _link_to(run: "Run", run_id: str, text: str) -> str:
    return f"[{text}](#/experiments/{run.info.experiment_id}/runs/{run_id})"
