"""What MLflow and TensorBoard hold after programs ran."""

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from workspaces import EXPERIMENT, Workspace

from runrecord.record.reader import Record, files_in
from runrecord.record.view import view
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
    store = client(workspace)
    experiment = store.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = store.search_runs([experiment.experiment_id], order_by=["start_time DESC"])
    return [run for run in found if run.data.tags["mlflow.source.name"].startswith(stage)]


def points_in(file: Path) -> int:
    """How many metric points MLflow's database has by now; it may not be there yet."""
    address = f"file:{file}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM metrics").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def everything(workspace: Workspace) -> dict[str, Any]:
    """All that MLflow shows of each run, by the run's name; MLflow's own ids are left out."""
    store = client(workspace)
    found = {run.info.run_id: run for run in runs(workspace)}
    named = {run_id: run.info.run_name for run_id, run in found.items()}
    shown: dict[str, Any] = {}
    for run_id, run in found.items():
        full = store.get_run(run_id)
        names = {key: named.get(value, value) for key, value in run.data.tags.items()}
        names.pop("description.sha256")  # its text is compared
        for other, name in named.items():
            note = names["mlflow.note.content"].replace(other, name)
            names["mlflow.note.content"] = note
        model_id = names.pop("model.id", None)
        images = [file.path for file in store.list_artifacts(run_id, "images")]
        assert run.info.run_name not in shown, "one run a record"
        shown[run.info.run_name] = {
            "params": run.data.params,
            "tags": names,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "points": {key: points_of(workspace, run, key) for key in sorted(run.data.metrics)},
            "images": sorted(name.rpartition("+")[0] for name in images if name.endswith("png")),
            "data sets": [
                (entry.dataset.name, entry.dataset.digest) for entry in full.inputs.dataset_inputs
            ],
            "models read": len(full.inputs.model_inputs),
            "model": model_id and _model(store, model_id),
        }
    return shown


def _model(store: MlflowClient, model_id: str) -> dict[str, Any]:
    model = store.get_logged_model(model_id)
    folder = Path(model.artifact_location.removeprefix("file://"))
    return {
        "status": str(model.status),
        "params": model.params,
        "metrics": sorted((m.key, m.value, m.step, m.dataset_digest) for m in model.metrics or ()),
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")),
    }


def points_of(workspace: Workspace, run: Run, metric: str) -> list[tuple[int, float]]:
    """A metric's points, (step, value), doubled ones twice."""
    points = client(workspace).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def assert_shown(workspace: Workspace, folder: Path) -> None:
    """MLflow shows the run of a record once, each point once, with its true status and times."""
    seen = view(Record(files_in(folder)))
    start, end = seen.start, seen.record.end
    (run,) = [run for run in runs(workspace) if run.info.run_name == start.id]
    assert end is not None
    assert (run.info.status, run.info.start_time) == (end.status, start.time)
    for name, series in seen.series.items():
        expected = [(step, value) for step, (value, _) in series.items()]
        assert points_of(workspace, run, name) == expected
    names = [file.path for file in client(workspace).list_artifacts(run.info.run_id, "images")]
    shown = [name for name in names if "~" not in name and name.endswith(".png")]
    assert len(shown) == len(seen.images)
    if seen.models:
        model = client(workspace).get_logged_model(run.data.tags["model.id"])
        assert str(model.status) == "READY"


def event_files(workspace: Workspace, run: Run, part: str = "") -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage = run.data.tags["mlflow.source.name"]
    folder = workspace.path / "tensorboard" / stage / run.info.run_name / part
    everything = dict.fromkeys(("scalars", "images", "tensors"), 0)
    return EventAccumulator(str(folder), everything).Reload()
