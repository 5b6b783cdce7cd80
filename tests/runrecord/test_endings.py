"""How a stage's end is kept: from signals, from a console that goes, from edits in mid-run."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import RECORD_ONLY, TOY_STAGE, TOY_TRAIN, TRAIN, Workspace, read_until, spool

from runrecord.record.reader import Record, files_in


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def status_of(folder: Path) -> str:
    """How the run ended whose record is in `folder`."""
    end = Record(files_in(folder)).end
    assert end is not None
    return end.status


def test_once_the_result_is_kept_a_signal_ends_only_the_waiting(
    toy: Workspace, silent_server: str
) -> None:
    with toy.start(*TOY_STAGE, MLFLOW_TRACKING_URI=silent_server) as stage:
        assert stage.stdout is not None
        read_until(stage.stdout, "MLflow to show the run, at most 60 s")
        stage.send_signal(signal.SIGTERM)
        output = stage.stdout.read()
    assert stage.returncode == 0, output
    assert "MLflow is left behind: not waited for" in output
    assert status_of(toy.path / "records/train") == "FINISHED"


def test_dvc_keeps_the_result_of_a_stage_whose_waiting_a_signal_ended(
    toy: Workspace, silent_server: str
) -> None:
    toy.set_params(train__lr=0.25)
    with toy.start("dvc", "repro", "train", MLFLOW_TRACKING_URI=silent_server) as dvc:
        assert dvc.stdout is not None
        read_until(dvc.stdout, "MLflow to show the run, at most 60 s")
        (stage,) = stages_of(dvc)
        os.kill(stage, signal.SIGINT)
        output = dvc.stdout.read()
    assert dvc.returncode == 0, output
    assert "MLflow is left behind: not waited for" in output
    record = Record(files_in(toy.path / "records/train"))
    assert record.start.params["train.lr"] == 0.25
    assert status_of(toy.path / "records/train") == "FINISHED"
    assert toy.repro("train") == []


def stages_of(dvc: "subprocess.Popen[str]") -> list[int]:
    """The stages that a `dvc repro` runs."""
    children = Path(f"/proc/{dvc.pid}/task/{dvc.pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"train.py" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_a_pipe_that_closes_costs_no_training(toy: Workspace) -> None:
    with toy.start(*TOY_TRAIN, **RECORD_ONLY, PAUSE_AFTER="1") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        read_until(process.stdout, "epoch 1/")
        process.stdout.close()
        process.stdin.close()  # it goes on, and says seven times what nobody hears
        assert process.wait(60) == 0
    (folder,) = spool(toy)
    assert status_of(folder) == "FINISHED"


def test_a_terminal_that_closes_costs_no_training(toy: Workspace) -> None:
    ours, its = os.openpty()
    with subprocess.Popen(
        TOY_TRAIN,
        cwd=toy.path,
        env=toy.environment | RECORD_ONLY | {"PAUSE_AFTER": "1"},
        stdin=subprocess.PIPE,
        stdout=its,
        stderr=its,
        start_new_session=True,
    ) as process:
        os.close(its)
        with open(ours, errors="replace") as terminal:
            read_until(terminal, "epoch 1/")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
    (folder,) = spool(toy)
    assert status_of(folder) == "FINISHED"


@pytest.mark.slow
def test_a_terminal_with_a_bar_that_closes_costs_no_training(workspace: Workspace) -> None:
    """A real model's training draws there from a thread of its own, and moves the cursor."""
    workspace.set_params(vae__batch_size=1, vae__epochs=3)
    ours, its = os.openpty()
    process = subprocess.Popen(
        TRAIN,
        cwd=workspace.path,
        env=workspace.environment | RECORD_ONLY,
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    with open(ours, errors="replace") as terminal:
        read_until(terminal, "epoch 1/")
    assert process.wait(120) == 0
    (folder,) = spool(workspace)
    assert status_of(folder) == "FINISHED"


def test_params_edited_in_mid_run_are_never_recorded_as_run(toy: Workspace) -> None:
    toy.set_params(train__lr=0.25)
    toy.run(*TOY_TRAIN, environment=RECORD_ONLY)
    expected = [toy.read(name) for name in ("model.bin", "metrics.json")]
    lock, params = toy.read("dvc.lock"), toy.read("params.yaml")
    with toy.start("dvc", "repro", "train", **RECORD_ONLY, PAUSE_AFTER="3") as process:
        assert process.stdout is not None
        read_until(process.stdout, "epoch 3/")
        edited = "train: {epochs: 8, lr: 4}\nother: {lr: 0.5}\n"  # the other is none of its own
        (toy.path / "params.yaml").write_text(edited)
        output, _ = process.communicate()
    assert process.returncode == 255
    assert "error: train.lr (was 0.25, is 4) changed while train ran" in output
    assert toy.read("dvc.lock") == lock
    failed = spool(toy)[-1]
    end = Record(files_in(failed)).end
    assert end is not None
    assert (end.status, end.changed) == ("FAILED", ("train.lr (was 0.25, is 4)",))

    (toy.path / "params.yaml").write_bytes(params)
    output = toy.run("dvc", "repro", "train", environment=RECORD_ONLY)
    assert f"going on with {failed.name} after epoch 8" in output
    assert [toy.read(name) for name in ("model.bin", "metrics.json")] == expected
    assert spool(toy)[-1] == failed
    assert status_of(failed) == "FINISHED"
