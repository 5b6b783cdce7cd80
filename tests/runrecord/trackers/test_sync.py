"""`runrecord sync`, `reap` and `doctor` on real runs: nothing is lost, nothing is doubled."""

import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from mlflow_views import assert_shown, client, everything, forget_mlflow, runs, runs_in
from workspaces import EXPERIMENT, TOY_TRAIN, Workspace, new_repository

import runrecord
from records import audited, end_run, new_run, play, records_among
from runrecord.record.events import Dataset
from runrecord.record.reader import Record, files_in
from runrecord.trackers.mlflow.sink import MlflowSink


@pytest.fixture
def small(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A small repository with the sealed records of three runs, which this process works in."""
    root = tmp_path / EXPERIMENT
    root.mkdir()
    new_repository(root)
    for time, model in enumerate(("ae", "vae"), start=1):
        train(root, root / "records" / model, model, time=time)
        end_run(root / "records" / model)
    evaluate(root, root / "records" / "evaluation", time=3)
    end_run(root / "records" / "evaluation")
    return entered(Workspace(root), empty_store, monkeypatch)


def entered(workspace: Workspace, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """That workspace, with a database, and this process in its folder as a person's shell."""
    shutil.copyfile(empty_store, workspace.path / "mlflow.db")
    monkeypatch.chdir(workspace.path)
    for name in ("DVC_ROOT", "DVC_STAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return workspace


def begun(folder: Path, stage: str, **start: Any) -> runrecord.Run:
    """A run of this host that has begun, its record in `folder`."""
    given = {
        "id": f"{stage}-20260101-000000-aaaaaa",
        "stage": stage,
        "host": platform.node(),
        "tags": {"git.commit": "a" * 40, "git.dirty": "false"},
        "dataset": Dataset("mnist", "digest", "data/mnist"),
    }
    return new_run(folder, **(given | start))


def train(root: Path, folder: Path, model: str, **start: Any) -> None:
    """Two epochs of three steps, a picture each, and the model."""
    run = begun(folder, f"train-{model}", params={"model": model, "lr": 0.1}, **start)
    for epoch in (1, 2):
        within = [3.0 / epoch, 2.0 / epoch, 1.0 / epoch]
        run.log({"Train/Total Loss": 2.0 / epoch}, epoch, {"Train/Total Loss": within})
        run.log({"Test/Total Loss": 2.5 / epoch, "Test/Other": 0.1}, epoch)
        run.image("Test image", np.full((4, 4), epoch, np.uint8), epoch)
    path = root / "models" / f"{model}.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(f"weights of {model}".encode())
    run.model(path, step=2)


def evaluate(root: Path, folder: Path, **start: Any) -> None:
    run = begun(folder, "evaluate", **start)
    run.image("vae_samples", np.full((4, 4), 9, np.uint8))
    for model in ("ae", "vae"):
        path = root / "models" / f"{model}.safetensors"
        series = {"Denoising": [(1, 0.5), (2, 0.25)]}
        run.evaluation(model, path, {"Reconstruction/MSE": 0.5}, series)


Here = Callable[..., str]


def summary(output: str) -> dict[str, int]:
    """The counts of sync's last line."""
    (line,) = [line for line in output.splitlines() if line.startswith("MLflow: ")]
    parts = line.removeprefix("MLflow: ").split(", ")
    return {part.partition(" ")[2]: int(part.partition(" ")[0]) for part in parts}


def change_start(folder: Path, **values: object) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def states(created: int = 0, completed: int = 0, there: int = 0) -> dict[str, int]:
    return {"created": created, "completed": completed, "already there": there, "failed": 0}


def test_what_was_left_out_or_lost_is_added_and_nothing_twice(
    small: Workspace, program: Here
) -> None:
    assert summary(program("sync")) == states(created=3)
    before = everything(small)
    for name in ("ae", "vae", "evaluation"):
        assert_shown(small, small.path / "records" / name)
    assert summary(program("sync")) == states(there=3)
    (run,) = runs(small, "train-ae")
    client(small).update_run(run.info.run_id, "RUNNING")
    assert summary(program("sync")) == states(completed=1, there=2)
    client(small).set_tag(run.info.run_id, "record.events", "3")
    assert summary(program("sync")) == states(completed=1, there=2)
    assert everything(small) == before
    forget_mlflow(small)
    assert summary(small.run("runrecord", "sync")) == states(created=3)
    assert everything(small) == before


IMPORTED = """
import sys
from runrecord.cli import main

for command in sys.argv[1:]:
    sys.argv = ["runrecord", *command.split()]
    try:
        main()
    except SystemExit as end:
        print("ended:", end.code)
print("imported:", {"mlflow", "dvc"} & {*sys.modules})
"""


def test_with_nothing_to_do_no_run_of_the_store_is_read_and_mlflow_not_imported(
    small: Workspace, program: Here
) -> None:
    begun(small.path / ".runrecord" / "runs" / "more", "train", id="more")
    end_run(small.path / ".runrecord" / "runs" / "more")
    program("sync")
    with audited("open") as opened:
        assert summary(program("sync")) == states(there=4)
        assert program("reap") == "0 runs closed\n"
    assert "more" not in records_among(opened), "it has a summary; sealed ones are few"
    (run,) = runs(small, "train-vae")
    output = small.run(
        "python", "-c", IMPORTED, "sync", "reap", f"show {run.info.run_id}", "show more"
    )
    assert output.count("ended: 0\n") == 4
    assert "imported: set()" in output
    assert "train-vae-" in output


GONE = {
    "mlruns": 3,
    "mlruns/{run}": 1,
    "mlruns/models": 2,
    "mlruns/models/{model}": 1,
}
"""What may be removed beside a database that is kept, and how many runs lack it: `sync` sees it."""
PARTS = (
    "mlruns/{run}/artifacts/images/*+step+2+*",
    "mlruns/{run}/artifacts",
    "mlruns/models/{model}/artifacts",
)
"""What only a look at each run sees."""


def test_files_that_are_gone_from_beside_the_database_are_brought_back(
    small: Workspace, program: Here
) -> None:
    program("sync")
    before, files = everything(small), snapshot(small.path / "mlruns")
    (run,) = runs(small, "train-vae")
    names = {"run": run.info.run_id, "model": run.data.tags["model.id"]}
    for what in (*GONE, *PARTS):
        for place in small.path.glob(what.format(**names)):
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        assert snapshot(small.path / "mlruns") < files, what
        if what in PARTS:
            assert summary(program("sync")) == states(there=3), what
        counts = summary(program("sync", *(["--check"] if what in PARTS else [])))
        assert counts == states(completed=GONE.get(what, 1), there=3 - GONE.get(what, 1)), what
        assert snapshot(small.path / "mlruns") == files, what
        assert everything(small) == before, what
    assert summary(program("sync", "--check")) == states(there=3)


def test_what_mlflow_gc_removed_stays_away_until_it_is_asked_for(
    small: Workspace, program: Here
) -> None:
    from click.testing import CliRunner

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own imports
        from mlflow.cli import gc

    program("sync")
    before = everything(small)
    (run,) = runs(small, "train-vae")
    uri = f"sqlite:///{small.path / 'mlflow.db'}"
    client(small).delete_run(run.info.run_id)
    given = ["--backend-store-uri", uri, "--tracking-uri", uri, "--run-ids", run.info.run_id]
    with patch.dict(os.environ):
        ended = CliRunner().invoke(gc, given)
    assert ended.exit_code == 0, ended.output
    for _ in range(2):
        assert summary(program("sync")) == states(there=2) | {"removed there": 1}
        assert runs(small, "train-vae") == []
    assert summary(program("sync", run.info.run_name)) == states(created=1)
    assert everything(small)[run.info.run_name] == before[run.info.run_name]
    assert summary(program("sync")) == states(there=3)
    client(small).delete_run(runs(small, "train-vae")[0].info.run_id)
    assert summary(program("sync")) == states(there=2) | {"removed there": 1}
    assert summary(program("sync", "records/vae")) == states(there=1)
    assert everything(small)[run.info.run_name] == before[run.info.run_name]


def test_the_experiment_is_what_a_person_says(
    small: Workspace, program: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("sync")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "team's own")
    assert summary(program("sync")) == states(created=3)
    assert len(runs_in(client(small), "team's own")) == 3
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert summary(program("sync")) == states(there=3)


@pytest.mark.slow
def test_sync_all_brings_back_every_committed_run_and_experiment(toy: Workspace) -> None:
    toy.set_params(train__lr=0.25)
    toy.repro()
    toy.run("git", "commit", "--all", "--quiet", "--message=lr 0.25")
    toy.run("dvc", "exp", "run", "--temp", "-S", "train.lr=0.125", "--name", "slower")
    toy.run("git", "checkout", "--quiet", "HEAD~1")
    toy.run("runrecord", "sync", "--all")
    before = everything(toy)
    assert len(before) == 2 + 2 + 2
    forget_mlflow(toy)
    shutil.rmtree(toy.path / ".runrecord")
    assert summary(toy.run("runrecord", "sync", "--all"))["created"] == len(before)
    assert everything(toy) == before
    trained = [shown for shown in before.values() if shown["model"]]
    assert len(trained) == 3
    for shown in trained:
        assert (shown["status"], shown["model"]["status"]) == ("FINISHED", "READY")
        assert shown["points"]["Eval/Size"], "the evaluation's figures are back too"


def test_a_moved_folder_is_told_what_to_do_and_gets_all_from_its_records(
    small: Workspace, tmp_path: Path, program: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("sync")
    before = everything(small)
    moved = Workspace(tmp_path / "moved" / EXPERIMENT)
    shutil.copytree(small.path, moved.path, symlinks=True)
    monkeypatch.chdir(moved.path)
    original = snapshot(small.path / "mlruns")
    output = program("sync", status=2)
    assert f"{moved.path / 'mlflow.db'} was moved or copied: its pictures and models are" in output
    assert "remove it, and run 'runrecord sync --all'." in output
    forget_mlflow(moved)
    assert summary(moved.run("runrecord", "sync")) == states(created=3)
    assert everything(moved) == before
    assert snapshot(small.path / "mlruns") == original, "nothing of the copy's goes there"


def snapshot(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_half_a_last_line_is_said_and_a_refused_record_named_and_the_rest_is_played(
    small: Workspace, program: Here
) -> None:
    events = small.path / "records" / "vae" / "events.jsonl"
    events.write_bytes(events.read_bytes()[:-20])
    change_start(small.path / "records" / "ae", format=7)
    output = program("sync", status=1)
    assert "records/vae: its last line is cut off" in output
    assert "records/ae: this version does not read format 7" in output
    assert "error: 1 of the records failed" in output
    run, _ = sorted(runs(small), key=lambda run: run.info.start_time)
    assert run.info.status == "KILLED"
    assert "cut off" in run.data.tags["error"]
    assert run.data.tags["model.sha256"]


def test_a_damaged_picture_is_named_and_all_else_of_its_run_is_played(
    small: Workspace, program: Here
) -> None:
    folder = small.path / "records" / "vae"
    damaged = min((folder / "images").iterdir())
    damaged.chmod(0o644)
    damaged.write_bytes(b"<script>")
    said = f"images/{damaged.name}: its SHA-256 is another"
    for again in (False, True):
        output = program("sync", "--tensorboard", status=1)
        assert output.count(f"not all its pictures, models and files ({said})") == 2
        assert output.count("records/vae: TensorBoard shows it") == 1
        assert "error: 2 of the records failed" in output
        counts = summary(output)
        assert (counts["created"], counts["already there"]) == ((0, 2) if again else (2, 0))
    (run,) = runs(small, "train-vae")
    assert run.info.status == "FINISHED"
    assert len(client(small).get_metric_history(run.info.run_id, "Test/Other")) == 2
    assert run.data.tags["model.sha256"]
    pictures = [*(small.path / "mlruns").glob(f"{run.info.run_id}/artifacts/images/*")]
    assert pictures
    assert not [path for path in pictures if b"script" in path.read_bytes()]


def test_two_runs_with_one_id_are_kept_apart(small: Workspace, program: Here) -> None:
    program("sync")
    before = everything(small)
    ae, vae = (small.path / "records" / name for name in ("ae", "vae"))
    taken = json.loads((ae / "run.json").read_text())["id"]
    change_start(vae, id=taken)
    output = program("sync", status=1)
    assert f"its id '{taken}' is that of another run, in " in output
    shutil.rmtree(ae)
    output = program("sync", status=1)
    assert f"another run in MLflow has the id '{taken}'" in output
    assert everything(small) == before


@pytest.mark.slow
@pytest.mark.needs("root-mounts")
def test_a_full_disk_costs_a_warning_and_no_result(toy: Workspace, empty_store: Path) -> None:
    """The run store's disk fills up in mid-training; the run and its outs are whole."""
    shutil.copyfile(empty_store, toy.path / "mlflow.db")
    outs = ("model.bin", "metrics.json")
    before = [toy.read(name) for name in outs]
    small = toy.path / ".runrecord"
    small.mkdir(exist_ok=True)
    toy.run("mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", str(small))
    try:
        output = toy.run(*TOY_TRAIN)
        assert output.count("warning: the run's record cannot be written (") == 1
        assert "No space left on device" in output
        assert [toy.read(name) for name in outs] == before
        counts = summary(toy.run("runrecord", "sync"))
        assert counts["failed"] == 0, counts
        assert_shown(toy, toy.path / "records" / "train")
    finally:
        toy.run("umount", str(small))


def test_doctor_says_what_needs_doing(
    workspace: Workspace, empty_store: Path, program: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered(workspace, empty_store, monkeypatch)
    assert program("doctor").count("✓") == 8
    folder = workspace.path / ".runrecord" / "runs" / "gone"
    begun(folder, "train-vae", id="gone").log({"loss": 1.0}, step=1)
    play(workspace.path, Record(files_in(folder)), MlflowSink)
    image = workspace.path / "data" / "mnist" / "t10k-images-idx3-ubyte"
    content = bytearray(image.read_bytes())
    content[500] ^= 1
    image.chmod(0o644)
    image.write_bytes(content)
    workspace.run("dvc", "remote", "add", "--default", "gone", "http://127.0.0.1:9/x")
    output = program("doctor", status=1)
    wrong = [line.split(":")[0] for line in output.splitlines() if line.startswith("✗")]
    assert wrong == ["✗ run store", "✗ data", "✗ DVC remote"]
    assert "MLflow lacks 1 of " in output
    assert "error: 3 of the above need doing." in output
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter22@127.0.0.1:9")
    output = program("doctor", status=1)
    assert "✗ tracking store: MLflow's tracking store cannot be used: " in output
    assert "hunter22" not in output
    assert platform.node() not in output
