"""Whatever MLflow shows otherwise than a run's record has it is found, and named."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow_views import shown_as

from records import end_run, new_run, play
from runrecord.files import sha256
from runrecord.record.events import PATCH, File
from runrecord.record.reader import Record
from runrecord.trackers.mlflow.audit import audit, is_of_origin
from runrecord.trackers.mlflow.sink import MlflowSink
from runrecord.verify.compare import where


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    """A repository whose MLflow store is there."""
    (tmp_path / "repository" / ".dvc").mkdir(parents=True)
    shutil.copyfile(empty_store, tmp_path / "repository" / "mlflow.db")
    return tmp_path / "repository"


@pytest.fixture
def record(tmp_path: Path, root: Path) -> Record:
    """A run that MLflow shows. Of some things it keeps less than the record has.

    One of two points of a curve at one place, one metric of those with one name, the last of a
    tag's texts.
    """
    folder, tags = tmp_path / "record", {"git.commit": "c" * 40, "python": "3.11.7", "job": "17"}
    patch = File(PATCH, sha256(b"--- a/train.py"))
    run = new_run(folder, params={"lr": 0.1, "z": 8}, tags=tags, patch=patch)
    (folder / PATCH).write_bytes(b"--- a/train.py")
    for epoch in (1, 2, 3):
        run.log({"Loss": 1 / epoch}, step=epoch, within={"Loss": [2.0, 1 / epoch]})
    run.tag(job="18")
    (tmp_path / "model.bin").write_bytes(b"weights")
    run.model(tmp_path / "model.bin", step=3)
    run.evaluation("m %", tmp_path / "model.bin", {"acc": 0.5}, {"c": [(1, 0.5), (1, 0.7)]})
    run.log({"m %/acc": 9.0}, step=0)
    record = end_run(folder)
    play(root, record, MlflowSink)
    return record


def test_what_mlflow_was_given_is_what_the_record_says(root: Path, record: Record) -> None:
    """Metrics of other groups are others', as of an evaluation."""
    client, run = shown_as(root, record.start.id)
    client.delete_tag(run.info.run_id, "record.patch")  # as earlier versions, which set none
    for name in ("Eval/SSIM", "Eval/acc", "system/cpu"):
        client.log_metric(run.info.run_id, name, 0.75)
    assert run.data.tags["job"] == "18"
    assert audit(client, run.info.run_id, record) == []


CHANGES = {
    "UPDATE params SET value = '0.2' WHERE key = 'lr'": ("the param lr", "differs"),
    "DELETE FROM params WHERE key = 'z'": ("the param z", "missing"),
    f"UPDATE tags SET value = '{'d' * 40}' WHERE key = 'git.commit'": (
        "the tag git.commit",
        "differs",
    ),
    "UPDATE metrics SET value = 0.5000000000000001 WHERE key = 'Loss' AND step = 2": (
        "Loss at step 2",
        "differs",
    ),
    "UPDATE metrics SET step = 0 WHERE key = 'Loss' AND step = 3": ("Loss at step 3", "missing"),
    "INSERT INTO metrics SELECT key, 9.0, 1, run_uuid, step, 0 FROM metrics "
    "WHERE key = 'Loss' AND step = 1": ("Loss at step 1, logged 2 times", "extra"),
    "UPDATE tags SET value = 'f' WHERE key = 'model.sha256'": (
        "the model model.sha256",
        "differs",
    ),
    "UPDATE tags SET value = 'f' WHERE key = 'evaluated.m _x25_'": (
        "the model evaluated.m _x25_",
        "differs",
    ),
    "UPDATE latest_metrics SET value = 9.0 WHERE key = 'Loss'": (
        "the latest value of Loss",
        "differs",
    ),
    "UPDATE runs SET status = 'FAILED'": ("the status of the run", "differs"),
}


def test_whatever_is_changed_in_mlflow_is_found_and_named(root: Path, record: Record) -> None:
    with closing(sqlite3.connect(root / "mlflow.db", timeout=30)) as database, database:
        for statement in CHANGES:
            assert database.execute(statement).rowcount == 1, statement
    client, run = shown_as(root, record.start.id)
    found = audit(client, run.info.run_id, record)
    named = {(where(one), one.state) for one in found}
    assert named == {*CHANGES.values(), ("Loss at step 0", "extra")}
    assert [where(one) for one in found if is_of_origin(one)] == [where(found[0])]
