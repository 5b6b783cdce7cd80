"""One page about runs side by side: records in, HTML out."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from runrecord.project import Project
from runrecord.record.events import RunStarted
from runrecord.record.view import RunView
from runrecord.report.curves import curves_png
from runrecord.report.seed_spread import Row, Spread, answers, judged, main_metrics, spreads
from runrecord.safety.text import printable
from runrecord.trackers.description import EVALUATION

_PROVENANCE = ("git.commit", "git.branch", "git.dirty", "dvc.experiment", "device.name", "torch")


@dataclass(frozen=True)
class Tested:
    """What an evaluation says of one model."""

    metrics: Mapping[str, float]
    pictures: Mapping[str, bytes]
    """The model's own, by title."""


@dataclass(frozen=True)
class Section:
    """All about the runs of one stage; first what answers a question."""

    stage: str
    runs: Sequence[str]
    columns: Sequence[str]
    """Whose metrics stand side by side: the runs', or those of the models of a lone evaluation."""
    answers: Sequence[str]
    """Sentences: which run is better, in what."""
    differing: Sequence[Row]
    """Params and what was read; all params of a run that stands alone."""
    main: Sequence[Row]
    """The metrics to judge by."""
    judged: bool
    """Are they measured by what seeds make?"""
    picture: tuple[str, Sequence[str]] | None
    texts: Sequence[tuple[str, str]]
    """A title and a text each, of the runs one after the other."""
    params: Sequence[Row]
    metrics: Sequence[Row]
    curves: str
    pictures: Sequence[tuple[str, Sequence[str]]]
    """A title, and each run's picture as a data address, empty where it has none."""
    origin: Sequence[Row]


def render(
    runs: Sequence[RunView],
    evaluations: Iterable[RunView],
    project: Project,
    replicas: Sequence[tuple[RunStarted, Mapping[str, float]]] = (),
) -> str:
    """The page, complete in itself.

    Args:
        runs: what it is about.
        evaluations: where the test metrics of the models that `runs` trained may be, and their
            pictures, which are left out where the evaluation's own run shows them.
        project: its curves, its main metrics, and which way those are better.
        replicas: how runs began that may differ from one of `runs` by their seed alone, and
            their metrics, as `all_metrics` has them.
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
    sections = []
    for stage in dict.fromkeys(run.start.stage for run in runs):
        named = [run for run in runs if run.start.stage == stage]
        finished = [run for run in named if run.status == "FINISHED"]
        metrics = [
            *((run.start, _metrics(run, tested)) for run in finished),
            *(other for other in replicas if other[0].stage == stage),
        ]
        spread = spreads(stage, metrics, project)
        sections.append(_section(stage, named, tested, project, spread))
    page = files("runrecord.report").joinpath("page.html").read_text(encoding="utf-8")
    template = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_harmless
    ).from_string(page)
    title = "Runs side by side" if len(runs) > 1 else runs[0].start.id
    today = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return template.render(sections=sections, title=title, made=today)


def _section(
    stage: str,
    runs: Sequence[RunView],
    tested: Mapping[str, Tested],
    project: Project,
    spread: Mapping[str, Spread],
) -> Section:
    params = _rows([run.start.params for run in runs])
    read = _rows([{path: sha[:10] for path, sha in run.start.deps.items()} for run in runs])
    metrics: list[Mapping[str, float]] = [_metrics(run, tested) for run in runs]
    pictures = [{**_pictures(run), **_tested(run, tested).pictures} for run in runs]
    labels = _labels(runs)
    series = {
        name: {
            label: [value for value, _ in run.series[name].values()]
            for label, run in zip(labels, runs, strict=True)
            if name in run.series
        }
        for name in _curves(runs, project)
    }
    columns = labels
    if len(runs) == 1 and len(runs[0].evaluated) > 1:
        columns = [*runs[0].evaluated]
        metrics = [found.metrics for found in runs[0].evaluated.values()]
    rows = [judged(row, metrics, project, spread.get(row.name)) for row in _rows(metrics)]
    judging = main_metrics(metrics, project)
    main = [row for row in rows if row.name in judging]
    # What an evaluation says is judged at the runs that trained its models.
    judged_here = not all(run.evaluated and not run.models for run in runs)
    titles = dict.fromkeys(title for own in pictures for title in own)
    shown = [
        (title, [_address(own[title]) if title in own else "" for own in pictures])
        for title in titles
    ]
    return Section(
        stage=stage,
        runs=labels,
        columns=columns,
        answers=answers(labels, main) if len(runs) > 1 and judged_here else [],
        differing=[row for row in params + read if _differs(row)] if len(runs) > 1 else params,
        main=main,
        judged=judged_here and (len(runs) > 1 or any(row.spread for row in main)),
        picture=shown[0] if shown else None,
        texts=[
            (f"{label}: {title}", run.record.read(file.name).decode(errors="replace"))
            for label, run in zip(labels, runs, strict=True)
            for title, file in run.files.items()
            if file.name.endswith(".txt")
        ],
        params=[row for row in params if not _differs(row)] if len(runs) > 1 else [],
        metrics=[row for row in rows if row.name not in judging],
        curves=_address(curves_png(series)) if series else "",
        pictures=shown[1:],
        origin=_rows([_origin(run) for run in runs]),
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


def _tested(run: RunView, tested: Mapping[str, Tested]) -> Tested:
    return tested.get(run.model or "", Tested({}, {}))


def _labels(runs: Sequence[RunView]) -> list[str]:
    """What each run is called: its experiment, or its id less its stage; each once."""
    names = [
        run.start.tags.get("dvc.experiment") or run.start.id.removeprefix(f"{run.start.stage}-")
        for run in runs
    ]
    return [
        run.start.id if names.count(name) > 1 else name
        for run, name in zip(runs, names, strict=True)
    ]


def _origin(run: RunView) -> dict[str, Any]:
    begun = datetime.fromtimestamp(run.start.time / 1000, UTC)
    named = {name: run.start.tags[name] for name in _PROVENANCE if name in run.start.tags}
    own = {"run": run.start.id, "status": run.status, "begun": f"{begun:%Y-%m-%d %H:%M:%S} UTC"}
    return {**own, "seconds": f"{run.seconds:.0f}", "host": run.start.host, **named}


def _metrics(run: RunView, tested: Mapping[str, Tested]) -> dict[str, float]:
    return all_metrics(run.last_values(), _tested(run, tested).metrics)


def all_metrics(own: Mapping[str, float], tested: Mapping[str, float]) -> dict[str, float]:
    """A run's test metrics if its model was evaluated, then its own: an epoch's, the last."""
    return {**{f"{EVALUATION}{name}": value for name, value in tested.items()}, **own}


def _rows(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for every name that some run has."""
    names = dict.fromkeys(name for values in runs for name in values)
    return [
        Row(name, [_text(values.get(name)) for values in runs], [False] * len(runs))
        for name in names
    ]


def _differs(row: Row) -> bool:
    return len(set(row.values)) > 1


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _harmless(value: object) -> object:
    """What the page shows of a record: no character that turns or hides text."""
    return (
        "\n".join(map(printable, value.split("\n"))) if type(value) is str else value
    )  # others are its own


def _address(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
