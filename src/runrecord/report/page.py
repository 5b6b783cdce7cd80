"""One page about runs side by side: records in, HTML out."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from runrecord.events import EpochEnded, EvaluationEnded, ModelSaved, Png, RunStarted
from runrecord.project import Project
from runrecord.record.reader import Record
from runrecord.report.curves import curves_png
from runrecord.sinks.description import EVALUATION

_PROVENANCE = ("git.commit", "git.branch", "git.dirty", "dvc.experiment", "device.name", "torch")


@dataclass(frozen=True)
class Run:
    """What a record tells, read and checked as a whole."""

    start: RunStarted
    status: str
    seconds: float
    history: Mapping[str, Sequence[float]]
    """Each metric's mean in every epoch."""
    model: str | None
    """The SHA-256 of the model it made."""
    tested: Mapping[str, Mapping[str, float]]
    """An evaluation's metrics: by model, then by name."""
    pictures: Mapping[str, Png]
    """The last of each title."""


@dataclass(frozen=True)
class Tested:
    """What an evaluation says of one model."""

    metrics: Mapping[str, float]
    pictures: Mapping[str, Png]
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


def read_run(record: Record) -> Run:
    """A run, from its record.

    Raises:
        RecordRefused: the record is damaged.
    """
    start, *events = record.events()
    assert isinstance(start, RunStarted)
    history: dict[str, list[float]] = {}
    tested: Mapping[str, Mapping[str, float]] = {}
    pictures: dict[str, Png] = {}
    model = None
    for event in events:
        match event:
            case EpochEnded():
                for name, value in event.means.items():
                    history.setdefault(name, []).append(value)
                pictures |= event.images
            case EvaluationEnded():
                tested = event.metrics
                pictures |= event.images
            case ModelSaved():
                model = event.sha256
    seconds = (record.last_sign_of_life - start.time) / 1000
    status = record.end.status if record.end else "RUNNING"
    return Run(start, status, seconds, history, model, tested, pictures)


def render(runs: Sequence[Run], evaluations: Iterable[Run], project: Project) -> str:
    """The page, complete in itself.

    Args:
        runs: what it is about.
        evaluations: where the test metrics of the models that `runs` trained may be, and their
            pictures, which are left out where the evaluation's own run shows them.
        project: its curves, and which way its metrics are better.
    """
    tested: dict[str, Tested] = {}
    shown = {run.start.id for run in runs}
    for evaluation in sorted(evaluations, key=lambda run: run.start.time):
        pictures = {} if evaluation.start.id in shown else evaluation.pictures
        for model, digest in evaluation.start.models.items():
            own = {
                EVALUATION + title.removeprefix(f"{model}_"): picture
                for title, picture in pictures.items()
                if title.startswith(f"{model}_")
            }
            tested[digest] = Tested(evaluation.tested.get(model, {}), own)
    stages = dict.fromkeys(run.start.stage for run in runs)
    sections = [
        _section(stage, [run for run in runs if run.start.stage == stage], tested, project)
        for stage in stages
    ]
    page = files("runrecord.report").joinpath("page.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(page)
    return template.render(sections=sections, made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


def _section(
    stage: str, runs: Sequence[Run], tested: Mapping[str, Tested], project: Project
) -> Section:
    params = _rows([run.start.params for run in runs])
    origins = _rows([_origin(run) for run in runs])
    tests = [tested.get(run.model or "", Tested({}, {})) for run in runs]
    metrics = [_metrics(run, test) for run, test in zip(runs, tests, strict=True)]
    pictures = [{**run.pictures, **test.pictures} for run, test in zip(runs, tests, strict=True)]
    labels = [_label(run) for run in runs]
    series = {
        name: {
            label: run.history[name]
            for label, run in zip(labels, runs, strict=True)
            if name in run.history
        }
        for name in project.curves
        if any(name in run.history for run in runs)
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


def _label(run: Run) -> str:
    experiment = run.start.tags.get("dvc.experiment")
    own = run.start.id.removeprefix(f"{run.start.stage}-")
    return f"{own} ({experiment})" if experiment else own


def _origin(run: Run) -> dict[str, Any]:
    begun = datetime.fromtimestamp(run.start.time / 1000, UTC)
    named = {name: run.start.tags[name] for name in _PROVENANCE if name in run.start.tags}
    own = {"run": run.start.id, "status": run.status, "begun": f"{begun:%Y-%m-%d %H:%M:%S} UTC"}
    return {**own, "seconds": f"{run.seconds:.0f}", "host": run.start.host, **named}


def _metrics(run: Run, test: Tested) -> dict[str, float]:
    """Its test metrics if its model was evaluated, then the last epoch's; an evaluation's own."""
    own = {
        f"{model}/{name}": value for model, own in run.tested.items() for name, value in own.items()
    }
    last = {name: values[-1] for name, values in run.history.items()}
    return {**own, **{f"{EVALUATION}{name}": value for name, value in test.metrics.items()}, **last}


def _rows(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for every name that some run has."""
    names = dict.fromkeys(name for values in runs for name in values)
    return [
        Row(name, [_text(values.get(name)) for values in runs], [False] * len(runs))
        for name in names
    ]


def _marked(row: Row, runs: Sequence[Mapping[str, float]], project: Project) -> Row:
    """The row of a metric, its best values marked where there is something to choose."""
    kind = row.name.partition(" at ")[0]
    ways = [way for ending, way in project.better.items() if kind.endswith(ending)]
    values = [metrics.get(row.name) for metrics in runs]
    known = [value for value in values if value is not None]
    if len(set(known)) < 2 or not ways:
        return row
    best = max(known) if ways[0] == "higher" else min(known)
    return Row(row.name, row.values, [value == best for value in values])


def _differs(row: Row) -> bool:
    return len(set(row.values)) > 1


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _address(image: Png) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
