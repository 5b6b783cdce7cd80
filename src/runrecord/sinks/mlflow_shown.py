"""What the tracking store has of runs already."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EVENTS_TAG = "record.events"
"""How many events of its record a run shows; set with the last one."""

Point = tuple[str, int, int]
"""A metric's or picture's name, step and time: what makes a point the same point."""

_PICTURE = re.compile(r"(.+)\+step\+(\d+)\+timestamp\+(\d+)\+[^+]+\.png")


@dataclass(frozen=True)
class Shown:
    """What the tracking store has of a run."""

    run_id: str
    status: str
    start: int
    host: str
    events: int
    """How many of its record's events it shows for certain."""
    deleted: bool
    """A person deleted it in the user interface."""


def shown_runs(client: "MlflowClient", experiment: str) -> dict[str, Shown]:
    """Every run of ours in the store, by the id of its record."""
    from mlflow.entities import ViewType

    runs: dict[str, Shown] = {}
    token = None
    while True:
        page = client.search_runs(
            [experiment], run_view_type=ViewType.ALL, max_results=1000, page_token=token
        )
        for run in page:
            tags, info = run.data.tags, run.info
            if record_id := tags.get("record.id"):
                runs[record_id] = Shown(
                    run_id=info.run_id,
                    status=info.status,
                    start=info.start_time,
                    host=tags.get("host", ""),
                    events=int(tags.get(EVENTS_TAG, 0)),
                    deleted=info.lifecycle_stage == "deleted",
                )
        token = page.token
        if not token:
            return runs


def pictures_of(client: "MlflowClient", run_id: str) -> dict[Point, str]:
    """Where a run's pictures lie, by key, step and time: their files are named after these."""
    found: dict[Point, str] = {}
    for file in client.list_artifacts(run_id, "images"):
        name = file.path.removeprefix("images/")
        if match := _PICTURE.fullmatch(name):
            key, step, time = match.groups()
            found[key.replace("~", "/"), int(step), int(time)] = file.path
    return found


def history_of(client: "MlflowClient", run_id: str, metric: str) -> dict[Point, float]:
    """A metric's points."""
    points = client.get_metric_history(run_id, metric)
    return {(point.key, point.step, point.timestamp): point.value for point in points}


def points_of(client: "MlflowClient", run: "Run") -> set[Point]:
    """The points of all metrics of a run."""
    return {
        point for name in run.data.metrics for point in history_of(client, run.info.run_id, name)
    }
