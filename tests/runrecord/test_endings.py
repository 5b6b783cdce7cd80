"""How a stage's end is kept: from signals, from a console that goes, from edits in mid-run."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import OUTS, TRAIN, Workspace, read_until, spool

from runrecord.record.reader import Record, files_in


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_once_the_result_is_kept_a_signal_ends_only_the_waiting(
    workspace: Workspace, silent_server: str, sent: signal.Signals
) -> None:
    with workspace.start(
        "dvc", "repro", "train-vae", "--force", MLFLOW_TRACKING_URI=silent_server
    ) as dvc:
        assert dvc.stdout is not None
        read_until(dvc.stdout, "waiting for MLflow")
        (stage,) = stages_of(dvc)
        os.kill(stage, sent)
        output = dvc.stdout.read()
    assert dvc.returncode == 0, output
    assert "not waited for" in output
    record = Record(files_in(workspace.path / "records/vae"))
    assert record.end is not None
    assert record.end.status == "FINISHED"
    assert workspace.repro("train-vae") == []


def stages_of(dvc: "subprocess.Popen[str]") -> list[int]:
    """The stages that a `dvc repro` runs."""
    children = Path(f"/proc/{dvc.pid}/task/{dvc.pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"stages/train_vae.py" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_a_pipe_that_closes_costs_no_training(workspace: Workspace) -> None:
    workspace.set_params(vae__batch_size=1, vae__epochs=3)
    with workspace.start(*TRAIN) as process:
        assert process.stdout is not None
        read_until(process.stdout, "epoch 1/")
        process.stdout.close()
        assert process.wait() == 0
    (folder,) = spool(workspace)
    end = Record(files_in(folder)).end
    assert end is not None
    assert end.status == "FINISHED"


def test_a_terminal_that_closes_costs_no_training(workspace: Workspace) -> None:
    workspace.set_params(vae__batch_size=1, vae__epochs=3)
    ours, its = os.openpty()
    process = subprocess.Popen(
        TRAIN,
        cwd=workspace.path,
        env=workspace.environment,
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
    end = Record(files_in(folder)).end
    assert end is not None
    assert end.status == "FINISHED"


def test_params_edited_in_mid_run_are_never_recorded_as_run(workspace: Workspace) -> None:
    workspace.set_params(vae__batch_size=1, vae__epochs=4)
    workspace.run(*TRAIN)
    expected = [workspace.read(name) for name in OUTS]
    lock, params = workspace.read("dvc.lock"), workspace.read("params.yaml")
    with workspace.start("dvc", "repro", "train-vae") as process:
        assert process.stdout is not None
        read_until(process.stdout, "epoch 1/")
        workspace.set_params(vae__beta=4, ae__lr=0.5)  # the other is none of its own
        output = process.stdout.read()
    assert process.returncode != 0
    assert "error: vae.beta (was 1, is 4) changed while train-vae ran" in output
    assert workspace.read("dvc.lock") == lock
    failed = spool(workspace)[-1]
    end = Record(files_in(failed)).end
    assert end is not None
    assert (end.status, end.changed) == ("FAILED", ("vae.beta (was 1, is 4)",))

    (workspace.path / "params.yaml").write_bytes(params)
    output = workspace.run("dvc", "repro", "train-vae")
    assert f"going on with {failed.name} after epoch 4" in output
    assert [workspace.read(name) for name in OUTS] == expected
    assert spool(workspace)[-1] == failed
