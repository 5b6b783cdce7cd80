"""`runrecord sync`, `reap` and `doctor` on real runs: nothing is lost, nothing is doubled."""

import json
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from helpers import (
    Workspace,
    assert_shown,
    client,
    event_files,
    everything,
    forget_mlflow,
    points_in,
    read_until,
    runs,
    spool,
    wait_until,
)

from runrecord.run_store import host


def summary(output: str) -> dict[str, int]:
    """The counts of sync's last line."""
    (line,) = [line for line in output.splitlines() if line.startswith("MLflow: ")]
    parts = line.removeprefix("MLflow: ").split(", ")
    return {part.partition(" ")[2]: int(part.partition(" ")[0]) for part in parts}


def change_start(folder: Path, **values: object) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_stages_that_dvc_restored_appear_in_mlflow(workspace: Workspace) -> None:
    shutil.rmtree(workspace.path / "records")
    assert workspace.repro() == []
    counts = summary(workspace.run("runrecord", "sync"))
    assert counts == {"created": 3, "completed": 0, "already there": 0, "failed": 0}
    assert {run.info.status for run in runs(workspace)} == {"FINISHED"}
    evaluation, *training = runs(workspace)
    assert evaluation.data.tags["vae.run_id"] in {run.info.run_id for run in training}
    counts = summary(workspace.run("runrecord", "sync"))
    assert counts == {"created": 0, "completed": 0, "already there": 3, "failed": 0}


@pytest.mark.slow
def test_sync_all_brings_back_every_committed_run_and_experiment(workspace: Workspace) -> None:
    workspace.set_params(vae__latent_dim=4)
    workspace.repro()
    workspace.run("git", "commit", "--all", "--quiet", "--message=latent_dim 4")
    workspace.run("dvc", "exp", "run", "--temp", "-S", "ae.lr=0.01", "--name", "faster")
    workspace.run("git", "checkout", "--quiet", "HEAD~1")
    workspace.run("runrecord", "sync", "--all")
    before = everything(workspace)
    assert len(before) == 3 + 2 + 2
    forget_mlflow(workspace)
    shutil.rmtree(workspace.path / ".runrecord")
    assert summary(workspace.run("runrecord", "sync", "--all"))["created"] == len(before)
    assert everything(workspace) == before
    for shown in before.values():
        assert shown["status"] == "FINISHED"
        if shown["model"]:
            assert shown["model"]["status"] == "READY"
            assert shown["points"]["Eval/Reconstruction/MSE"], (
                "the evaluation's figures are back too"
            )


def test_records_come_from_the_remote_where_the_cache_has_none(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace.run("dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    workspace.run("git", "commit", "--all", "--quiet", "--message=remote")
    workspace.run("dvc", "push")
    workspace.run("git", "clone", "--quiet", str(workspace.path), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    assert summary(clone.run("runrecord", "sync", "--all"))["created"] == 3
    workspace.run("runrecord", "sync")
    assert everything(clone) == everything(workspace)

    shutil.rmtree(tmp_path / "storage")
    shutil.rmtree(clone.path / ".dvc" / "cache")
    forget_mlflow(clone)
    output = clone.run("runrecord", "sync", "--all")
    assert summary(output)["not found"] == 3
    assert "in neither DVC's cache nor its remote" in output


@pytest.mark.slow
def test_sync_killed_in_the_middle_ends_right_when_started_again(workspace: Workspace) -> None:
    workspace.run("runrecord", "sync")
    whole = everything(workspace)
    for points in (1, 6, 14, 20):
        forget_mlflow(workspace)
        with workspace.start("runrecord", "sync") as process:
            wait_until(lambda wanted=points: points_in(workspace) >= wanted)  # type: ignore[misc]
            process.kill()
        counts = summary(workspace.run("runrecord", "sync"))
        assert counts["completed"] >= 1 or counts["already there"] >= 1, counts
        assert everything(workspace) == whole


def test_a_new_database_never_meets_an_old_ones_log(workspace: Workspace) -> None:
    """README says rm mlflow.db*; who forgets the star has a log of SQLite's beside a new file."""
    workspace.run("runrecord", "sync")
    database = workspace.path / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        for number in range(500):
            with connection:
                connection.execute("CREATE TABLE IF NOT EXISTS junk (text)")
                connection.execute("INSERT INTO junk VALUES (?)", [f"{number}" * 2000])
        for name in ("-wal", "-shm"):  # what a process leaves behind that is killed
            shutil.copyfile(f"{database}{name}", workspace.path / f"kept{name}")
    before = everything(workspace)
    forget_mlflow(workspace)
    for name in ("-wal", "-shm"):
        shutil.copyfile(workspace.path / f"kept{name}", f"{database}{name}")
    assert summary(workspace.run("runrecord", "sync"))["created"] == 3
    assert everything(workspace) == before


def test_a_moved_folder_takes_its_pictures_and_models_along(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace.run("runrecord", "sync")
    before = everything(workspace)
    moved = Workspace(tmp_path / "moved")
    shutil.copytree(workspace.path, moved.path, symlinks=True)
    original = snapshot(workspace.path / "mlruns")
    output = moved.run("python", "stages/train_vae.py")
    assert f"{moved.path / 'mlflow.db'} was moved or copied" in output
    assert snapshot(workspace.path / "mlruns") == original, "nothing of the copy's goes there"
    shutil.rmtree(workspace.path)
    shown = everything(moved)
    assert {name: run["images"] for name, run in shown.items() if name in before} == {
        name: run["images"] for name, run in before.items()
    }
    (new,) = shown.keys() - before.keys()
    assert shown[new]["images"]
    assert shown[new]["model"]["files"]
    assert "was moved" not in moved.run("runrecord", "sync")


def snapshot(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_event_files_are_written_anew(workspace: Workspace) -> None:
    workspace.run("runrecord", "sync", "--tensorboard")
    (run,) = runs(workspace, "train-vae")
    for _ in range(2):
        events = event_files(workspace, run)
        assert [point.step for point in events.Scalars("Train/Total Loss")] == list(range(6))
        (title,) = events.Tags()["images"]
        assert [image.step for image in events.Images(title)] == [1, 2]
        workspace.run("runrecord", "sync", "--tensorboard")


def test_a_killed_run_is_closed_and_others_are_left_alone(workspace: Workspace) -> None:
    """SIGKILL leaves RUNNING; reap closes it, but neither a live run nor another host's."""
    workspace.set_params(vae__epochs=100000)
    command = ("python", "stages/train_vae.py")
    with workspace.start(*command) as killed, workspace.start(*command) as live:
        for process in (killed, live):
            assert process.stdout is not None
            read_until(process.stdout, "epoch 2/")
        wait_until(lambda: len(spool(workspace)) == 2 and points_in(workspace) > 0)
        killed.kill()
        killed.wait()
        (gone,) = [f for f in spool(workspace) if process_of(f) != live.pid]
        foreign = shutil.copytree(gone, gone.with_name("train-vae-elsewhere"))
        change_start(foreign, id=foreign.name, host="elsewhere")

        output = workspace.run("runrecord", "reap")
        assert f"{gone.name}: its process is gone: KILLED" in output
        assert output.count("KILLED") == 1
        assert_shown(workspace, gone)
        assert "end" not in (foreign / "events.jsonl").read_text().splitlines()[-1][:20]
        live.send_signal(signal.SIGINT)
    output = workspace.run("runrecord", "sync")
    for folder in spool(workspace):
        if folder != foreign:
            assert_shown(workspace, folder)


def process_of(folder: Path) -> int:
    """The process that holds the lock of a run's folder, 0 if none does."""
    inode = (folder / "lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "->" not in fields and int(fields[5].rpartition(":")[2]) == inode:
            return int(fields[4])
    return 0


def test_half_a_last_line_is_said_and_the_rest_is_used(workspace: Workspace) -> None:
    events = workspace.path / "records" / "vae" / "events.jsonl"
    events.write_bytes(events.read_bytes()[:-20])
    output = workspace.run("runrecord", "sync")
    assert "records/vae: its last line is cut off; the rest is used." in output
    (run,) = runs(workspace, "train-vae")
    assert run.info.status == "KILLED"
    assert "cut off" in run.data.tags["error"]
    assert run.data.tags["model.sha256"]


def test_a_refused_record_is_named_and_the_others_are_played(workspace: Workspace) -> None:
    change_start(workspace.path / "records" / "vae", format=7)
    output = workspace.run("runrecord", "sync", status=1)
    assert "records/vae: it has format 7, and this version reads up to 1" in output
    assert "error: 1 of the records failed, as said above; all others are used." in output
    assert {run.info.run_name.rsplit("-", 3)[0] for run in runs(workspace)} == {
        "train-ae",
        "evaluate",
    }


def test_two_runs_with_one_id_are_kept_apart(workspace: Workspace) -> None:
    workspace.run("runrecord", "sync")
    before = everything(workspace)
    ae, vae = (workspace.path / "records" / name for name in ("ae", "vae"))
    taken = json.loads((ae / "run.json").read_text())["id"]
    change_start(vae, id=taken)
    output = workspace.run("runrecord", "sync", status=1)
    assert f"its id '{taken}' is that of another run, in " in output
    shutil.rmtree(ae)
    output = workspace.run("runrecord", "sync", status=1)
    assert f"another run in MLflow has the id '{taken}'" in output
    assert everything(workspace) == before


def test_a_run_that_a_person_deleted_stays_deleted(workspace: Workspace) -> None:
    workspace.run("runrecord", "sync")
    (run,) = runs(workspace, "evaluate")
    client(workspace).delete_run(run.info.run_id)
    assert summary(workspace.run("runrecord", "sync"))["already there"] == 3
    assert runs(workspace, "evaluate") == []


def test_a_store_that_does_not_answer_is_one_sentence(workspace: Workspace) -> None:
    address = "http://me:hunter22@127.0.0.1:9"
    output = workspace.run("runrecord", "sync", status=2, MLFLOW_TRACKING_URI=address)
    assert output.startswith("error: MLflow's tracking store does not answer (")
    assert "hunter22" not in output
    assert len(output.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_costs_a_warning_and_no_result(workspace: Workspace) -> None:
    """The run store's disk fills up in mid-training; the run, its outs and MLflow are whole."""
    workspace.set_params(vae__batch_size=1, vae__epochs=12)
    workspace.run("python", "stages/train_vae.py")
    outs = ("models/vae.safetensors", "metrics/vae.json", "metrics/vae_history.csv")
    before = [workspace.read(name) for name in outs]
    shutil.rmtree(workspace.path / ".runrecord")
    small = workspace.path / ".runrecord"
    small.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(small))
    if "denied" in workspace.run("sh", "-c", f"{' '.join(mount)} 2>&1 || echo denied"):
        pytest.skip("this machine does not let root mount a disk")
    try:
        output = workspace.run("python", "stages/train_vae.py")
        assert output.count("warning: the run's record cannot be written (") == 1
        assert "No space left on device" in output
        assert [workspace.read(name) for name in outs] == before
        assert_shown(workspace, workspace.path / "records" / "vae")
        counts = summary(workspace.run("runrecord", "sync"))
        assert counts["failed"] == counts["completed"] == 0, counts
        assert_shown(workspace, workspace.path / "records" / "vae")
    finally:
        workspace.run("umount", str(small))


def test_doctor_says_what_needs_doing(workspace: Workspace) -> None:
    output = workspace.run("runrecord", "doctor", status=0)
    assert output.count("✓") == 10
    workspace.set_params(vae__epochs=100000)
    with workspace.start("python", "stages/train_vae.py") as process:
        assert process.stdout is not None
        read_until(process.stdout, "epoch 2/")
        wait_until(lambda: points_in(workspace) > 0)
        process.kill()
    image = workspace.path / "data" / "mnist" / "t10k-images-idx3-ubyte"
    content = bytearray(image.read_bytes())
    content[500] ^= 1
    image.chmod(0o644)
    image.write_bytes(content)
    workspace.run("dvc", "remote", "add", "--default", "gone", "http://127.0.0.1:9/x")
    output = workspace.run("runrecord", "doctor", status=1)
    wrong = [line for line in output.splitlines() if line.startswith("✗")]
    assert [line.split(":")[0] for line in wrong] == [
        "✗ data",
        "✗ run store",
        "✗ running",
        "✗ DVC remote",
    ]
    assert "run 'runrecord reap'" in output
    assert "error: 4 of the above need doing." in output
    address = "http://me:hunter22@127.0.0.1:9"
    output = workspace.run("runrecord", "doctor", status=1, MLFLOW_TRACKING_URI=address)
    assert "✗ tracking store: MLflow's tracking store does not answer (" in output
    assert "hunter22" not in output
    assert host() not in output
