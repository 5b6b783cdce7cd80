"""One page about runs side by side, with their curves: records in, HTML out."""

import base64
import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from itertools import cycle, product
from os.path import relpath
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment

from runrecord.errors import require
from runrecord.project import Project
from runrecord.record.events import RunStarted
from runrecord.record.reader import EVALUATION, RunView
from runrecord.report.seed_spread import Row, Spread, answers, judged, main_metrics, spreads
from runrecord.safety.text import plain, printable

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart by colour-blind readers too."""

_STYLES = ("-", "--", ":", "-.")
_LAYOUT: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True}  # of a template's lines
_PROVENANCE = ("git.commit", "git.branch", "git.dirty", "dvc.experiment", "device.name", "torch")


class Tested(NamedTuple):
    """What an evaluation says of one model."""

    metrics: Mapping[str, float] = {}
    pictures: Mapping[str, bytes] = {}
    """The model's own, by title."""


def render(
    runs: Sequence[RunView],
    evaluations: Iterable[RunView],
    project: Project,
    replicas: Sequence[tuple[RunStarted, Mapping[str, float]]] = (),
    folder: Path = Path(),
    markdown: bool = False,
) -> str:
    """The page, complete in itself, with links to the files that runs kept.

    Args:
        runs: what it is about.
        evaluations: of models that `runs` may have trained. Their metrics are shown beside those
            of the run; their pictures too, unless the evaluation itself is among `runs`.
        project: its curves, its main metrics, and which way those are better.
        replicas: starts of runs that may differ from one of `runs` by their seed alone, and their
            metrics, as `all_metrics` has them.
        folder: where the page will lie, for the links.
        markdown: what it begins with alone, as GitHub's Markdown.
    """
    tested = _tested_models(runs, evaluations)
    sections = []
    for stage in dict.fromkeys(run.start.stage for run in runs):
        named = [run for run in runs if run.start.stage == stage]
        metrics = [
            *((run.start, _metrics(run, tested)) for run in named if run.status == "FINISHED"),
            *(other for other in replicas if other[0].stage == stage),
        ]
        spread = spreads(stage, metrics, project)
        sections.append(_section(named, tested, project, spread))
    name, harmless = ("page.md", _in_markdown) if markdown else ("page.html", _harmless)
    page = files("runrecord.report").joinpath(name).read_text(encoding="utf-8")
    made = Environment(autoescape=not markdown, finalize=harmless, **_LAYOUT)  # noqa: S701
    title = "Runs side by side" if len(runs) > 1 else runs[0].start.id
    today = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    used = {"from_page": partial(relpath, start=folder), "address": _address, "drawn": curves_png}
    return made.from_string(page).render(sections=sections, title=title, made=today, **used)


def _tested_models(
    runs: Sequence[RunView], evaluations: Iterable[RunView]
) -> dict[str | None, Tested]:
    """What the newest evaluation says of each model that the runs made, by its SHA-256."""
    tested: dict[str | None, Tested] = {}
    shown, made = {run.start.id for run in runs}, {run.model for run in runs}
    for evaluation in sorted(evaluations, key=lambda run: run.start.time):
        if made.isdisjoint(found.sha256 for found in evaluation.evaluated.values()):
            continue  # its pictures may be damaged
        pictures = {} if evaluation.start.id in shown else _pictures(evaluation)
        for model, found in evaluation.evaluated.items():
            own = {
                EVALUATION + title.removeprefix(f"{model}_"): picture
                for title, picture in pictures.items()
                if title.startswith(f"{model}_")
            }
            tested[found.sha256] = Tested(found.metrics, own)
    return tested


def _section(
    runs: Sequence[RunView],
    tested: Mapping[str | None, Tested],
    project: Project,
    spread: Mapping[str, Spread],
) -> dict[str, Any]:
    """What page.html shows of the runs of one stage."""
    several = len(runs) > 1
    labels = columns = _labels(runs)
    params = _rows([run.start.params for run in runs])
    read = _rows([{path: sha[:10] for path, sha in run.start.deps.items()} for run in runs])
    metrics: list[Mapping[str, float]] = [_metrics(run, tested) for run in runs]
    if not several and len(runs[0].evaluated) > 1:  # its models side by side
        columns = [*runs[0].evaluated]
        metrics = [found.metrics for found in runs[0].evaluated.values()]
    rows = [judged(row, metrics, project, spread.get(row.name)) for row in _rows(metrics)]
    judging = main_metrics(metrics, project)
    main = [row for row in rows if row.name in judging]
    # What an evaluation says is judged at the runs that trained its models.
    judged_here = not all(run.evaluated and not run.models for run in runs)
    pictures = [{**_pictures(run), **tested.get(run.model, Tested()).pictures} for run in runs]
    shown = [
        (title, [_address(own[title]) if title in own else "" for own in pictures])
        for title in dict.fromkeys(title for own in pictures for title in own)
    ]
    series = {
        name: {
            label: [value for value, _ in run.series[name].values()]
            for label, run in zip(labels, runs, strict=True)
            if name in run.series
        }
        for name in _curves(runs, project)
    }
    return {
        "stage": runs[0].start.stage,
        "runs": labels,
        "named": [*zip(labels, runs, strict=True)],
        "columns": columns,
        "answers": answers(labels, main) if several and judged_here else [],
        "differing": [row for row in params + read if _differs(row)],
        "main": main,
        "judged": judged_here and (several or any(row.spread for row in main)),
        "picture": shown[0] if shown else None,
        "params": [row for row in params if not _differs(row)],
        "metrics": [row for row in rows if row.name not in judging],
        "series": series,
        "pictures": shown[1:],
        "origin": _rows([_origin(run) for run in runs]),
    }


def _curves(runs: Sequence[RunView], project: Project) -> list[str]:
    """The metrics to draw: those that the project names, else all that have several steps."""
    names = dict.fromkeys(name for run in runs for name in run.series)
    if project.curves:
        return [name for name in project.curves if name in names]
    return [name for name in names if any(len(run.series.get(name, ())) > 1 for run in runs)]


def _pictures(run: RunView) -> dict[str, bytes]:
    """The last picture of each title."""
    return {title: run.record.read(file.name) for title, file in run.last_images().items()}


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


def _metrics(run: RunView, tested: Mapping[str | None, Tested]) -> dict[str, float]:
    return all_metrics(run.last_values(), tested.get(run.model, Tested()).metrics)


def all_metrics(own: Mapping[str, float], tested: Mapping[str, float]) -> dict[str, float]:
    """A run's test metrics if its model was evaluated, then its own: an epoch's, the last."""
    return {**{f"{EVALUATION}{name}": value for name, value in tested.items()}, **own}


def _rows(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for every name that some run has."""
    names = dict.fromkeys(name for values in runs for name in values)
    return [Row(name, [_text(values.get(name)) for values in runs]) for name in names]


def _differs(row: Row) -> bool:
    return len(set(row.values)) > 1


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _harmless(value: object) -> object:
    """Text of a record without characters that turn or hide text; other types are the page's."""
    return "\n".join(map(printable, value.split("\n"))) if type(value) is str else value


def _in_markdown(value: object) -> str:
    """The same for Markdown, where it formats nothing, links nothing and calls nobody."""
    text = plain(_harmless(value)).replace("&", "&amp;")
    return re.sub(r"(?i)(?<=[@#])|(?<=:)(?=//)|(?<=www)(?=\.)", "&#8203;", text)


def _address(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def curves_png(metrics: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """A panel a metric, in it a line a run.

    `metrics` has by metric, then by the run's label, the values in every epoch from 1 on.
    """
    require("matplotlib", "matplotlib", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.1 * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, runs) in zip(panels, metrics.items(), strict=False):
        looks = cycle(product(_STYLES, _COLOURS))
        for (style, colour), (label, values) in zip(looks, runs.items(), strict=False):
            epochs = range(1, len(values) + 1)
            marker = "o" if len(values) == 1 else None
            axes.plot(epochs, values, style, color=colour, label=label, marker=marker)
        axes.set_title(name, parse_math=False)
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        for text in axes.legend().get_texts():
            text.set_parse_math(False)
    for axes in list(panels):
        axes.set_visible(False)
    file = io.BytesIO()
    with warnings.catch_warnings():  # of letters that its font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, format="png")
    return file.getvalue()
