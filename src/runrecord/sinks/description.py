"""What MLflow says at the top of a run: a few lines of Markdown, made from what it shows below."""

import re
from typing import TYPE_CHECKING

from runrecord.project import Project

if TYPE_CHECKING:
    from mlflow.entities import Run

EVALUATION = "Eval/"
"""Before the names of the metrics that an evaluation puts on the runs that trained its models."""


def describe(run: "Run", project: Project) -> str:
    """What it is, its main metrics, what it comes from, and how to get it again."""
    model = run.data.params.get("model")
    lines = [_training(run, model, project) if model else _evaluation(run, project)]
    lines.append(_origin(run))
    lines.append(
        f"Rebuild it and compare every bit: `runrecord verify {run.info.run_name}`, in a clone "
        "that has that commit."
    )
    return "\n\n".join(lines)


def plain(value: object) -> str:
    """A value as text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~-])", r"\\\1", str(value)).replace("\n", " ")


def _training(run: "Run", model: str, project: Project) -> str:
    params = ", ".join(
        f"{plain(name)} {plain(run.data.params[name])}"
        for name in project.params
        if name in run.data.params
    )
    text = f"**{plain(model.upper())}**: {params}."
    if "evaluation.run_id" in run.data.tags:
        link = _link(run, run.data.tags["evaluation.run_id"], "its evaluation")
        text += f"\n\nTest metrics, from {link}: {_metrics(run, EVALUATION, project)}."
    return text


def _evaluation(run: "Run", project: Project) -> str:
    lines = ["**Evaluation** of trained models on the test images:\n"]
    for model in sorted({name.partition("/")[0] for name in run.data.metrics}):
        training = run.data.tags.get(f"{model}.run_id")
        name = plain(model.upper())
        shown = _link(run, training, f"{name}, its training") if training else name
        lines.append(f"- {shown}: {_metrics(run, f'{model}/', project)}")
    return "\n".join(lines)


def _metrics(run: "Run", prefix: str, project: Project) -> str:
    found = [
        f"{name.rpartition('/')[2]} {run.data.metrics[prefix + name]:.5g}"
        for name in project.headline
        if prefix + name in run.data.metrics
    ]
    return plain(", ".join(found)) if found else "none yet"


def _origin(run: "Run") -> str:
    tags = run.data.tags
    text = "Made from "
    if commit := tags.get("git.commit"):
        dirty = " with uncommitted changes" if tags.get("git.dirty") == "true" else ""
        text += f"commit {plain(commit[:10])}{dirty}, "
    if experiment := tags.get("dvc.experiment"):
        text += f"as the DVC experiment {plain(experiment)}, "
    datasets = [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
    return text + ", ".join(f"data {plain(data.name)} {plain(data.digest)}" for data in datasets)


def _link(run: "Run", run_id: str, text: str) -> str:
    return f"[{text}](#/experiments/{run.info.experiment_id}/runs/{run_id})"
