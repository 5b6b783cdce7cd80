"""What MLflow and TensorBoard hold after programs ran."""

import json
import re
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from workspaces import EXPERIMENT, Workspace

from runrecord.files import sha256
from runrecord.record.reader import Record, files_in, view
from runrecord.trackers.mlflow.artifacts import search
from runrecord.trackers.mlflow.sink import MlflowSink


def verdict(workspace: Workspace, run: Run) -> str:
    """What MLflow says of a run's verification by now."""
    (found,) = [other for other in runs(workspace) if other.info.run_id == run.info.run_id]
    return str(found.data.tags["verified"])


_forgotten: Counter[Path] = Counter()


def client(workspace: Workspace) -> MlflowClient:
    # MLflow keeps connections by address, also to a file that was deleted: each has its own.
    folder = f"{workspace.path}{'/.' * _forgotten[workspace.path]}"
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def forget_mlflow(workspace: Workspace) -> None:
    """Delete all that the embedded store has."""
    for path in workspace.path.glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(workspace.path / "mlruns", ignore_errors=True)
    _forgotten[workspace.path] += 1


def shown_as(root: Path, run_id: str) -> tuple[MlflowClient, Run]:
    """A client of a repository's store, and the one run that it shows of that record."""
    sink = MlflowSink(root)
    (run,) = search(sink.client, sink.experiment, f"tags.`record.id` = '{run_id}'")
    return sink.client, run


def runs(workspace: Workspace, stage: str = "") -> list[Run]:
    """The workspace's runs, the newest first."""
    found = runs_in(client(workspace))
    return [run for run in found if run.data.tags["mlflow.source.name"].startswith(stage)]


def runs_in(store: MlflowClient, name: str = EXPERIMENT) -> list[Run]:
    """All runs of an experiment, the newest first."""
    experiment = store.get_experiment_by_name(name)
    assert experiment is not None
    return list(store.search_runs([experiment.experiment_id], order_by=["start_time DESC"]))


def points_in(file: Path) -> int:
    """How many points of a script's own MLflow's database has by now; it may not be there yet."""
    address = f"file:{file}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            found = "SELECT count(*) FROM metrics WHERE key NOT LIKE 'system/%'"
            return int(database.execute(found).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def everything(workspace: Workspace) -> dict[str, Any]:
    """All that MLflow shows of each run of a workspace, as `everything_in` has it."""
    return everything_in(client(workspace), EXPERIMENT)


def everything_in(store: MlflowClient, experiment: str, served: Path = Path()) -> dict[str, Any]:
    """All that MLflow shows of each run, by the run's name; a run's id is that name, too.

    The files of a server's runs lie below `served`.
    """
    found = store.get_experiment_by_name(experiment)
    assert found is not None
    ids = {run.info.run_id: run.info.run_name for run in store.search_runs([found.experiment_id])}
    assert len({*ids.values()}) == len(ids), "one run a record"
    shown = {}
    for run_id, name in ids.items():
        run = store.get_run(run_id)
        tags = dict(run.data.tags)
        model_id = tags.pop("model.id", None)
        shown[name] = {
            "params": run.data.params,
            "tags": tags,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "points": {key: _points(store, run_id, key) for key in sorted(run.data.metrics)},
            "files": _files(run.info.artifact_uri, served),
            "data sets": [
                (entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs
            ],
            "models read": len(run.inputs.model_inputs),
            "models made": [one.step for one in run.outputs.model_outputs],
            "model": model_id and _model(store, model_id, served),
        }
    text = json.dumps(shown)
    for run_id, name in ids.items():
        text = text.replace(run_id, name)
    named = re.sub(rf"experiments/{found.experiment_id}\b", "experiments/N", text)
    return dict(json.loads(named))


def _points(store: MlflowClient, run_id: str, metric: str) -> list[tuple[int, int, str]]:
    points = store.get_metric_history(run_id, metric)
    return sorted((point.step, point.timestamp, repr(point.value)) for point in points)


def _model(store: MlflowClient, model_id: str, served: Path) -> dict[str, Any]:
    model = store.get_logged_model(model_id)
    return {
        "name": model.name,
        "status": str(model.status),
        "params": model.params,
        "metrics": sorted((m.key, m.value, m.step, m.dataset_digest) for m in model.metrics or ()),
        "files": _files(model.artifact_location, served),
    }


def _files(address: str, served: Path) -> dict[str, str]:
    """The SHA-256 of each file there, but for the one that has times and ids of MLflow's own."""
    folder = Path(address.replace("mlflow-artifacts:", f"file://{served}").removeprefix("file://"))
    return {
        path.relative_to(folder).as_posix(): "" if path.name == "MLmodel" else sha256(path)
        for path in sorted(folder.rglob("*") if folder.is_dir() else ())
        if path.is_file()
    }


def points_of(workspace: Workspace, run: Run, metric: str) -> list[tuple[int, float]]:
    """A metric's points, (step, value), doubled ones twice."""
    points = client(workspace).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def assert_shown(workspace: Workspace, folder: Path) -> None:
    """MLflow shows the run of a record, as `assert_shown_in` has it."""
    assert_shown_in(client(workspace), folder)


def assert_shown_in(store: MlflowClient, folder: Path) -> None:
    """A store shows the run of a record once, each point once, with its true status and times."""
    seen = view(Record(files_in(folder)))
    start, end = seen.start, seen.record.end
    (run,) = [run for run in runs_in(store) if run.info.run_name == start.id]
    assert end is not None
    assert (run.info.status, run.info.start_time) == (end.status, start.time)
    assert run.info.end_time == end.time
    for name, series in seen.series.items():
        points = store.get_metric_history(run.info.run_id, name)
        assert sorted((point.step, point.value) for point in points) == [
            (step, value) for step, (value, _) in series.items()
        ]
    names = [file.path for file in store.list_artifacts(run.info.run_id, "images")]
    shown = [name for name in names if "~" not in name and name.endswith(".png")]
    assert len(shown) == len(seen.images)
    if seen.models:
        model = store.get_logged_model(run.data.tags["model.id"])
        assert str(model.status) == "READY"


def event_files(workspace: Workspace, run: Run, part: str = "") -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage = run.data.tags["mlflow.source.name"]
    folder = workspace.path / "tensorboard" / stage / run.info.run_name / part
    everything = dict.fromkeys(("scalars", "images", "tensors"), 0)
    return EventAccumulator(str(folder), everything).Reload()
