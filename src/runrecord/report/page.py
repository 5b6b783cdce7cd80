"""One page about runs side by side: records in, HTML out."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from runrecord.project import Project
from runrecord.report.curves import curves_png
from runrecord.run_view import RunView
from runrecord.sinks.description import EVALUATION

_PROVENANCE = ("git.commit", "git.branch", "git.dirty", "dvc.experiment", "device.name", "torch")


@dataclass(frozen=True)
class Tested:
    """What an evaluation says of one model."""

    metrics: Mapping[str, float]
    pictures: Mapping[str, bytes]
    """The model's own, by title."""


@dataclass(frozen=True)
class Row:
    """A line of a table: a value a run, the best ones marked."""

    name: str
    values: Sequence[str]
    best: Sequence[bool]


@dataclass(frozen=True)
class Section:
    """All about the runs of one stage."""

    stage: str
    runs: Sequence[str]
    differing: Sequence[Row]
    metrics: Sequence[Row]
    curves: str
    pictures: Sequence[tuple[str, Sequence[str]]]
    """A title, and each run's picture as a data address, empty where it has none."""
    equal: Sequence[Row]


def render(runs: Sequence[RunView], evaluations: Iterable[RunView], project: Project) -> str:
    """The page, complete in itself.

    Args:
        runs: what it is about.
        evaluations: where the test metrics of the models that `runs` trained may be, and their
            pictures, which are left out where the evaluation's own run shows them.
        project: its curves, and which way its metrics are better.
    """
    tested: dict[str, Tested] = {}
    shown, made = {run.start.id for run in runs}, {run.model for run in runs}
    for evaluation in sorted(evaluations, key=lambda run: run.start.time):
        if made.isdisjoint(found.sha256 for found in evaluation.evaluated.values()):
            continue
        pictures = {} if evaluation.start.id in shown else _pictures(evaluation)
        for model, found in evaluation.evaluated.items():
            own = {
                EVALUATION + title.removeprefix(f"{model}_"): picture
                for title, picture in pictures.items()
                if title.startswith(f"{model}_")
            }
            tested[found.sha256] = Tested(found.metrics, own)
    stages = dict.fromkeys(run.start.stage for run in runs)
    sections = [
        _section(stage, [run for run in runs if run.start.stage == stage], tested, project)
        for stage in stages
    ]
    page = files("runrecord.report").joinpath("page.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(page)
    return template.render(sections=sections, made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


def _section(
    stage: str, runs: Sequence[RunView], tested: Mapping[str, Tested], project: Project
) -> Section:
    params = _rows([run.start.params for run in runs])
    origins = _rows([_origin(run) for run in runs])
    tests = [tested.get(run.model or "", Tested({}, {})) for run in runs]
    metrics = [_metrics(run, test) for run, test in zip(runs, tests, strict=True)]
    pictures = [{**_pictures(run), **test.pictures} for run, test in zip(runs, tests, strict=True)]
    labels = [_label(run) for run in runs]
    series = {
        name: {
            label: [value for value, _ in run.series[name].values()]
            for label, run in zip(labels, runs, strict=True)
            if name in run.series
        }
        for name in _curves(runs, project)
    }
    titles = dict.fromkeys(title for own in pictures for title in own)
    return Section(
        stage=stage,
        runs=labels,
        differing=[row for row in params if _differs(row)] if len(runs) > 1 else params,
        metrics=[_marked(row, metrics, project) for row in _rows(metrics)],
        curves=_address(curves_png(series)) if series else "",
        pictures=[
            (
                title,
                [_address(own[title]) if title in own else "" for own in pictures],
            )
            for title in titles
        ],
        equal=([row for row in params if not _differs(row)] if len(runs) > 1 else []) + origins,
    )


def _curves(runs: Sequence[RunView], project: Project) -> list[str]:
    """The metrics to draw: those that the project names, else all that have several steps."""
    names = dict.fromkeys(name for run in runs for name in run.series)
    if project.curves:
        return [name for name in project.curves if name in names]
    return [name for name in names if any(len(run.series.get(name, ())) > 1 for run in runs)]


def _pictures(run: RunView) -> dict[str, bytes]:
    """The last picture of each title."""
    return {title: run.record.read(file.name) for title, file in run.last_images().items()}


def _label(run: RunView) -> str:
    experiment = run.start.tags.get("dvc.experiment")
    own = run.start.id.removeprefix(f"{run.start.stage}-")
    return f"{own} ({experiment})" if experiment else own


def _origin(run: RunView) -> dict[str, Any]:
    begun = datetime.fromtimestamp(run.start.time / 1000, UTC)
    named = {name: run.start.tags[name] for name in _PROVENANCE if name in run.start.tags}
    own = {"run": run.start.id, "status": run.status, "begun": f"{begun:%Y-%m-%d %H:%M:%S} UTC"}
    return {**own, "seconds": f"{run.seconds:.0f}", "host": run.start.host, **named}


def _metrics(run: RunView, test: Tested) -> dict[str, float]:
    """Its test metrics if its model was evaluated, then the last epoch's; an evaluation's own."""
    tested = {f"{EVALUATION}{name}": value for name, value in test.metrics.items()}
    return {**tested, **run.last_values()}


def _rows(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for every name that some run has."""
    names = dict.fromkeys(name for values in runs for name in values)
    return [
        Row(name, [_text(values.get(name)) for values in runs], [False] * len(runs))
        for name in names
    ]


def _marked(row: Row, runs: Sequence[Mapping[str, float]], project: Project) -> Row:
    """The row of a metric, its best values marked where there is something to choose."""
    way = project.way_of(row.name)
    values = [metrics.get(row.name) for metrics in runs]
    known = [value for value in values if value is not None and value == value]  # NaN is neither
    if len(set(known)) < 2 or way is None:
        return row
    best = max(known) if way == "higher" else min(known)
    return Row(row.name, row.values, [value == best for value in values])


def _differs(row: Row) -> bool:
    return len(set(row.values)) > 1


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _address(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
