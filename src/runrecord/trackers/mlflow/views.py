"""Saved views of MLflow's page of runs, one for each question that a person comes with.

MLflow keeps a view in a tag of the experiment, as its page writes it when a person shares one.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from runrecord.project import Project
from runrecord.record.reader import EVALUATION
from runrecord.trackers.base import name_for, title_of
from runrecord.trackers.mlflow.artifacts import pictures_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

VIEWS = {
    "runrecord-best": "Which is best?",
    "runrecord-learning": "Are they learning?",
    "runrecord-pictures": "What do they draw?",
}
"""The name of each view, by its key in an address."""
_TAG = "mlflow.sharedViewState."
_LOOKED_AT = 200  # runs, the newest, that tell what there is to show
_COLUMNS = 8  # params at most
_FEW = 2  # params where no two runs differ: the metrics stand in sight
_CHARTED = 12  # metrics and pictures at most
_NAME, _DATE = "attributes.`Run Name`", "runDateAndNestInfo"
_WIDTHS = {"attributes": 320, "params": 110, "metrics": 200}  # pixels: names are shown whole
_FAR_APART = 20  # the ratio of values from which on a loss is drawn on a logarithmic scale


def page_of(experiment: str, view: str) -> str:
    """The path of a view on an MLflow server."""
    mode = "" if view == "runrecord-best" else "&compareRunsMode=CHART"
    query = f"workflowType=machine_learning{mode}&viewStateShareKey={view}"
    return f"/#/experiments/{experiment}/runs?{query}"


def save_views(client: "MlflowClient", experiment: str, project: Project) -> None:
    """Make the views anew from what there is to show; those of a person are left alone."""
    found = client.get_experiment(experiment)
    runs = list(client.search_runs([experiment], max_results=_LOOKED_AT))
    pictures = _pictures(client, runs)
    for view, state in _states(runs, pictures, project).items():
        envelope = {
            "name": VIEWS[view],
            "createdAt": found.creation_time,
            "updatedAt": found.creation_time,
            "state": json.dumps(state),
        }
        text = json.dumps(envelope)
        if found.tags.get(_TAG + view) != text:
            client.set_experiment_tag(experiment, _TAG + view, text)


def _states(
    runs: "list[Run]", pictures: Mapping[str, int], project: Project
) -> dict[str, dict[str, Any]]:
    """What each view shows, as MLflow's page keeps it."""
    metrics = {name for run in runs for name in run.data.metrics}
    curves = [name for name in map(name_for, project.curves) if name in metrics]
    tested = [EVALUATION + name_for(name) for name in project.headline]
    headline = [name for name in tested if name in metrics]
    shown = _differing(runs) or [name_for(name) for name in project.params[:_FEW]]
    columns = [
        _NAME,
        *(f"params.`{name}`" for name in shown[:_COLUMNS]),
        *(f"metrics.`{name}`" for name in headline or curves),
    ]
    table = {
        "searchFilter": _filter(runs, curves),
        "selectedColumns": columns[1:],
        "columnOrder": [*columns, _DATE, "duration"],
        "columnWidths": {name: _WIDTHS[name.partition(".")[0]] for name in columns},
        "isAccordionReordered": True,
    }
    if headline:
        rising = project.way_of(title_of(headline[0])) == "lower"
        table |= {"orderByKey": f"metrics.`{headline[0]}`", "orderByAsc": rising}
    losses = [
        _chart("LINE", "losses", name, metricKey=name, scaleType=_scale(runs, name))
        for name in curves
    ]
    drawn = [
        _chart("IMAGE", "pictures", name, imageKeys=[name], step=step, showRunParams=False)
        for name, step in list(pictures.items())[:_CHARTED]
    ]
    return {
        "runrecord-best": table,
        "runrecord-learning": {**table, **_sections(losses=losses, pictures=drawn)},
        "runrecord-pictures": {**table, **_sections(pictures=drawn, losses=losses)},
    }


def _sections(**charts: list[dict[str, Any]]) -> dict[str, Any]:
    """Sections of charts, by their names; MLflow's own sections follow, folded."""
    opened = [name for name in charts if charts[name]]
    folded = [EVALUATION.rstrip("/"), "Model metrics", "System metrics"]
    return {
        "compareRunCharts": [chart for name in opened for chart in charts[name]],
        "compareRunSections": [
            {
                "uuid": name,
                "name": name.capitalize() if name in opened else name,
                "display": name in opened,
                "isReordered": False,
                "deleted": False,
                "isGenerated": name not in opened,
            }
            for name in opened + folded
        ],
    }


def _chart(kind: str, section: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{kind}-{name}",
        "metricSectionId": section,
        "displayName": title_of(name),
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
        **more,
    }


def _filter(runs: "list[Run]", curves: list[str]) -> str:
    """What the runs that have curves have, and no other: a param, where there is such a one.

    MLflow has no OR. Of a metric's presence nothing can be asked, but whether it is below the
    largest number; of a param's, whether it is like anything.
    """
    learning = [run.data.params.keys() for run in runs if run.data.metrics.keys() & set(curves)]
    if not learning:
        return ""
    others = [run.data.params.keys() for run in runs if not run.data.metrics.keys() & set(curves)]
    own = set.intersection(*map(set, learning)) - set().union(*others)
    return f"params.`{min(own)}` LIKE '%'" if own else f"metrics.`{curves[0]}` < 1.7e308"


def _differing(runs: "list[Run]") -> list[str]:
    """The params that two runs of one stage have with different values."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run in runs:
        for name, value in run.data.params.items():
            values[run.data.tags.get("mlflow.source.name", ""), name].add(value)
    return list(dict.fromkeys(name for (_, name), found in values.items() if len(found) > 1))


def _scale(runs: "list[Run]", metric: str) -> str:
    """Logarithmic where the runs' losses are of different kinds."""
    values = [run.data.metrics[metric] for run in runs if metric in run.data.metrics]
    far_apart = min(values) > 0 and max(values) > _FAR_APART * min(values)
    return "log" if far_apart else "linear"


def _pictures(client: "MlflowClient", runs: "list[Run]") -> dict[str, int]:
    """The last step of each picture that the newest run of a stage has, the most frequent first."""
    newest = {run.data.tags.get("mlflow.source.name", ""): run for run in reversed(runs)}
    steps: dict[str, list[int]] = defaultdict(list)
    for run in newest.values():
        with suppress(Exception):  # files that cannot be had there are shown by no view
            for key, step, _ in pictures_of(client, run):
                steps[key].append(step)
    return {key: max(steps[key]) for key in sorted(steps, key=lambda key: (-len(steps[key]), key))}
