"""What MLflow shows of runs already: read from its SQLite file, which needs no MLflow, or asked."""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from runrecord.trackers.mlflow.artifacts import EVENTS_TAG, Shown
from runrecord.trackers.mlflow.store import (
    artifact_location,
    experiment_name,
    is_embedded,
    open_to_read,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_RUNS = """
SELECT id.value, runs.run_uuid, status, start_time, host.value, CAST(events.value AS INTEGER),
    runs.lifecycle_stage = 'deleted', model.value
FROM runs JOIN tags AS id ON id.run_uuid = runs.run_uuid
LEFT JOIN tags AS host ON host.run_uuid = runs.run_uuid AND host.key = 'host'
LEFT JOIN tags AS events ON events.run_uuid = runs.run_uuid AND events.key = ?
LEFT JOIN tags AS model ON model.run_uuid = runs.run_uuid AND model.key = 'model.id'
WHERE id.key = 'record.id' AND experiment_id = ?
"""


def shown_in_file(root: Path, name: str | None = None) -> dict[str, Shown] | None:
    """The runs that an embedded store shows, by their records' ids; or the one of that name or id.

    None where only MLflow can tell: the store is a server's, is not there yet, was moved, or is not
    laid out as it was when this was written.
    """
    uri = tracking_uri(root)
    if not is_embedded(uri):
        return None
    query, wanted = _RUNS, [] if name is None else [name, name]
    if wanted:
        query += "AND (id.value = ? OR runs.run_uuid = ?)"
    try:
        with closing(open_to_read(root)) as database:
            own = database.execute(
                "SELECT experiment_id FROM experiments WHERE name = ? AND artifact_location = ? "
                "AND lifecycle_stage = 'active'",
                [experiment_name(root), artifact_location(root)],
            ).fetchone()
            if own is None:
                return None
            rows = database.execute(query, [EVENTS_TAG, own[0], *wanted]).fetchall()
    except sqlite3.Error:
        return None
    folders = _names_in(root / "mlruns") | {None}
    models = _names_in(root / "mlruns" / "models") | {None}
    return {
        record: Shown(
            run_id,
            status,
            start,
            host or "",
            events or 0,
            bool(deleted),
            has_files=run_id in folders and model in models,
        )
        for record, run_id, status, start, host, events, deleted, model in rows
    }


def ask_shown(client: "MlflowClient", experiment: str, name: str | None = None) -> dict[str, Shown]:
    """The runs of ours in a store, by their records' ids; or the one with that name or id."""
    if name is None:
        return _search(client, experiment, "")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        return {}
    by_name = _search(client, experiment, f"tags.`record.id` = '{name}'")
    return by_name or _search(client, experiment, f"attributes.run_id = '{name}'")


def _search(client: "MlflowClient", experiment: str, wanted: str) -> dict[str, Shown]:
    from mlflow.entities import ViewType

    runs: dict[str, Shown] = {}
    token = None
    while True:
        page = client.search_runs(
            [experiment], wanted, run_view_type=ViewType.ALL, max_results=1000, page_token=token
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


def _names_in(folder: Path) -> set[str | None]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
