"""What MLflow says at the top of a run: a few lines of Markdown, made from what it shows below."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from runrecord.project import Project
from runrecord.record.reader import EVALUATION
from runrecord.trackers.names import metrics_of, title_of

if TYPE_CHECKING:
    from mlflow.entities import Run

BY = "evaluation.run_id"
"""The tag of a training that names its evaluation."""
_NAMED = 8  # params and metrics that a description has, if the project names none


def describe(run: "Run", project: Project) -> str:
    """What it is, its main metrics, what it comes from, and how to get it again."""
    models = [tag.removesuffix(".sha256") for tag in run.data.tags if tag.endswith(".sha256")]
    evaluated = [model for model in models if evaluates(run, model)]
    lines = [
        _evaluation(run, project, evaluated) if evaluated else _own(run, project),
        _origin(run),
        f"Rebuild it and compare every bit: `runrecord verify {run.info.run_name}`, in a clone "
        "that has that commit.",
    ]
    return "\n\n".join(filter(None, lines))


def evaluates(run: "Run", model: str) -> bool:
    """Has that run the metrics of an evaluated model of that name?"""
    return any(key.startswith(metrics_of(model)) for key in run.data.metrics)


def plain(value: object) -> str:
    """A value as text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~-])", r"\\\1", str(value)).replace("\n", " ")


def _own(run: "Run", project: Project) -> str:
    """What it was run with; and its test metrics, if it made a model that was evaluated."""
    named = project.params or tuple(run.data.params)[:_NAMED]
    params = ", ".join(
        f"{plain(title_of(name))} {plain(run.data.params[name])}"
        for name in named
        if name in run.data.params
    )
    name = run.data.params.get("model", "").upper() or run.data.tags.get("mlflow.source.name", "")
    text = f"**{plain(name)}**" + (f": {params}." if params else "")
    if BY in run.data.tags:
        link = _link(run, run.data.tags[BY], "its evaluation")
        text += f"\n\nTest metrics, from {link}: {_metrics(run, EVALUATION, project)}."
    return text


def _evaluation(run: "Run", project: Project, evaluated: Iterable[str]) -> str:
    lines = ["**Evaluation** of trained models:\n"]
    for model in sorted(evaluated):
        training, name = run.data.tags.get(f"{model}.run_id"), plain(title_of(model).upper())
        shown = _link(run, training, f"{name}, its training") if training else name
        lines.append(f"- {shown}: {_metrics(run, metrics_of(model), project)}")
    return "\n".join(lines)


def _metrics(run: "Run", prefix: str, project: Project) -> str:
    metrics = run.data.metrics
    own = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
    found = [
        f"{title_of(name).rpartition('/')[2]} {metrics[prefix + name]:.5g}"
        for name in project.headline or own[:_NAMED]
        if prefix + name in metrics
    ]
    return plain(", ".join(found)) if found else "none yet"


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


def _link(run: "Run", run_id: str, text: str) -> str:
    return f"[{text}](#/experiments/{run.info.experiment_id}/runs/{run_id})"
