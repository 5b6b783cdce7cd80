"""Where MLflow keeps runs: the server of `MLFLOW_TRACKING_URI`, else one SQLite file."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "mnist-generative"
_SQLITE = "sqlite:///"
_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI's view for training runs


def tracking_uri(root: Path) -> str:
    """The address of the tracking store, for a main repository rooted at `root`."""
    given = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if given.startswith(_SQLITE):
        return f"{_SQLITE}{root / given.removeprefix(_SQLITE)}"  # an absolute path stays itself
    return given


def artifact_location(root: Path) -> str:
    """Where the embedded store keeps artifacts; its own default would depend on the cwd."""
    return (root / "mlruns").as_uri()


def connect(root: Path) -> "tuple[MlflowClient, str]":
    """A client of the tracking store, and the id of our experiment there, made if missing."""
    # A server that is gone would block each call for minutes with MLflow's own defaults.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(root)
    if not uri.startswith(_SQLITE):
        client = MlflowClient(uri)
        try:
            return client, _experiment(client) or client.create_experiment(EXPERIMENT, tags=_TAGS)
        except MlflowException:  # somebody else may have been first to create it
            if found := _experiment(client):
                return client, found
            raise

    # Processes that create the database at once crash each other in its migration.
    with FileLock(root / ".mlflow.lock"):
        database = Path(uri.removeprefix(_SQLITE))
        database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        client = MlflowClient(uri)
        location = artifact_location(root)
        return client, _experiment(client) or client.create_experiment(EXPERIMENT, location, _TAGS)


def _experiment(client: "MlflowClient") -> str | None:
    """The id of our experiment, brought back where a person deleted it: its name stays taken."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        return None
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
