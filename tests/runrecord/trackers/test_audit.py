"""Whatever MLflow shows otherwise than a run's record has it is found, and named."""

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow_views import shown_as

from records import end_run, new_run, play
from runrecord.files import sha256
from runrecord.record.events import PATCH, File
from runrecord.record.reader import Record
from runrecord.trackers.mlflow.audit import audit, is_of_origin
from runrecord.trackers.mlflow.sink import MlflowSink
from runrecord.verify.compare import where

TAGS = {"git.commit": "c" * 40, "git.dirty": "false", "python": "3.11.7", "job": "17"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A repository whose MLflow store is there; every test has its own run in it."""
    folder = tmp_path_factory.mktemp("audit") / "repository"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copyfile(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def record(request: pytest.FixtureRequest, tmp_path: Path, root: Path) -> Record:
    """A run that MLflow shows, its id the test's."""
    run_id = re.sub(r"\W", "-", request.node.name)
    run = new_run(tmp_path / "record", id=run_id, params={"lr": 0.1, "z": 8}, tags=TAGS)
    for epoch in (1, 2, 3):
        run.log({"Loss": 1 / epoch}, step=epoch, within={"Loss": [2.0, 1 / epoch]})
    run.image("place", np.zeros((2, 2), np.uint8), step=3)
    (tmp_path / "model.bin").write_bytes(run_id.encode())
    run.model(tmp_path / "model.bin", step=3)
    run.evaluation("model", tmp_path / "model.bin", {"acc": 0.5})
    (tmp_path / "other").write_bytes(b"other")
    run.evaluation("other %", tmp_path / "other", {"acc": 0.25})
    record = end_run(tmp_path / "record")
    play(root, record, MlflowSink)
    return record


def change(root: Path, record: Record, *statements: str) -> tuple[Any, str]:
    """Change what the database has of a run; MLflow's client and the run's id there."""
    client, run = shown_as(root, record.start.id)
    with closing(sqlite3.connect(root / "mlflow.db", timeout=30)) as database, database:
        for statement in statements:
            count = database.execute(statement, {"run": run.info.run_id}).rowcount
            assert count == 1, statement
    return client, run.info.run_id


def test_what_mlflow_was_given_is_what_the_record_says(root: Path, record: Record) -> None:
    client, run_id = change(root, record)
    assert audit(client, run_id, record) == []


CHANGES = {
    "a param is another": (
        "UPDATE params SET value = '0.2' WHERE run_uuid = :run AND key = 'lr'",
        ("the param lr", "differs"),
    ),
    "a param is lost": (
        "DELETE FROM params WHERE run_uuid = :run AND key = 'z'",
        ("the param z", "missing"),
    ),
    "a param is nobody's": (
        "INSERT INTO params (run_uuid, key, value) VALUES (:run, 'more', '1')",
        ("the param more", "extra"),
    ),
    "a point is another by its last bit": (
        "UPDATE metrics SET value = 0.5000000000000001 "
        "WHERE run_uuid = :run AND key = 'Loss' AND step = 2",
        ("Loss at step 2", "differs"),
    ),
    "a point is lost": (
        "DELETE FROM metrics WHERE run_uuid = :run AND key = 'Loss' AND step = 2",
        ("Loss at step 2", "missing"),
    ),
    "a point is at another step": (
        "UPDATE metrics SET step = 7 WHERE run_uuid = :run AND key = 'Loss' AND step = 2",
        ("Loss at step 2", "missing"),
    ),
    "a step has two values": (
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
        "VALUES ('Loss', 9.0, 1, :run, 2, 0)",
        ("Loss at step 2, logged 2 times", "extra"),
    ),
    "the latest value is another": (
        "UPDATE latest_metrics SET value = 9.0 WHERE run_uuid = :run AND key = 'Loss'",
        ("the latest value of Loss", "differs"),
    ),
    "the model is another": (
        "UPDATE tags SET value = 'f' WHERE run_uuid = :run AND key = 'model.sha256'",
        ("the model model.sha256", "differs"),
    ),
    "the commit is another": (
        f"UPDATE tags SET value = '{'d' * 40}' WHERE run_uuid = :run AND key = 'git.commit'",
        ("the tag git.commit", "differs"),
    ),
    "the status is another": (
        "UPDATE runs SET status = 'FAILED' WHERE run_uuid = :run",
        ("the status of the run", "differs"),
    ),
    "an evaluated model is another": (
        "UPDATE tags SET value = 'f' WHERE run_uuid = :run AND key = 'evaluated.other _x25_'",
        ("the model evaluated.other _x25_", "differs"),
    ),
    "the machine is another": (
        "UPDATE tags SET value = '3.12.0' WHERE run_uuid = :run AND key = 'python'",
        ("the tag python", "differs"),
    ),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_whatever_is_changed_in_mlflow_is_found_and_named(
    root: Path, record: Record, changed: str
) -> None:
    statement, expected = CHANGES[changed]
    client, run_id = change(root, record, statement)
    found = audit(client, run_id, record)
    assert expected in [(where(one), one.state) for one in found]
    of_origin = changed in ("the commit is another", "the machine is another")
    assert any(map(is_of_origin, found)) == of_origin


def test_tags_that_earlier_versions_did_not_set_are_no_difference(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    patch = File(PATCH, sha256(b"--- a/train.py"))
    run = new_run(tmp_path / "record", id="earlier", patch=patch)
    (tmp_path / "record" / PATCH).write_bytes(b"--- a/train.py")
    run.evaluation("m", tmp_path / "model.bin", {"acc": 0.5})
    record = end_run(tmp_path / "record")
    play(root, record, MlflowSink)
    lost = "DELETE FROM tags WHERE run_uuid = :run AND key = "
    client, run_id = change(root, record, f"{lost}'evaluated.m'", f"{lost}'record.patch'")
    assert audit(client, run_id, record) == []


def test_a_tag_that_a_run_gives_anew_is_no_difference(root: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "record", id="anew", tags=TAGS)
    run.tag(job="18")
    record = end_run(tmp_path / "record")
    play(root, record, MlflowSink)
    client, run_id = change(root, record)
    assert client.get_run(run_id).data.tags["job"] == "18"
    assert audit(client, run_id, record) == []


def test_metrics_of_another_group_are_others(root: Path, record: Record) -> None:
    client, run_id = change(root, record)
    client.set_tag(run_id, "evaluation.run_id", "of another run")
    for name in ("Eval/SSIM", "Eval/acc", "system/cpu"):
        client.log_metric(run_id, name, 0.75)
    assert audit(client, run_id, record) == []


def test_what_mlflow_keeps_once_is_no_difference(root: Path, tmp_path: Path) -> None:
    """Two points of a curve at one place; a metric called as an evaluation's."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    run = new_run(tmp_path / "record", id="twice")
    run.evaluation("m", tmp_path / "model.bin", {"acc": 0.5}, {"c": [(1, 0.5), (1, 0.7)]})
    run.log({"m/acc": 9.0}, step=0)
    record = end_run(tmp_path / "record")
    play(root, record, MlflowSink)
    client, run_id = change(root, record)
    assert audit(client, run_id, record) == []
