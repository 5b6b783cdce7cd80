"""A training that was stopped goes on in the same run, and ends with the same bytes."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    CPU,
    OUTS,
    SAMPLE,
    TRAIN,
    Workspace,
    assert_shown,
    compute,
    config,
    event_files,
    points_in,
    read_until,
    runs,
    spool,
    stop,
    wait_until,
)

from generative.data.dataset import load_mnist
from generative.models.base import Model
from generative.models.registry import REGISTRY
from generative.training.loop import EpochResult, fit, initialise
from generative.training.optimizers import make_optimizer
from generative.training.runtime import prepare
from generative.training.state import TrainingState
from runrecord.checkpoints import Checkpoints
from runrecord.events import Logged, RunEnded, RunStarted
from runrecord.record.reader import Record, files_in
from runrecord.record.writer import RecordWriter
from runrecord.verify.compare import compare

EPOCHS = 12


@pytest.fixture
def undisturbed(workspace: Workspace) -> list[bytes]:
    """The outs of a training that nobody stopped, with epochs long enough to stop in."""
    workspace.set_params(vae__batch_size=1, vae__epochs=EPOCHS)
    workspace.run(*TRAIN)
    return [workspace.read(name) for name in OUTS]


def checkpoints(workspace: Workspace) -> list[Path]:
    folder = workspace.path / ".runrecord" / "checkpoints"
    return sorted(folder.rglob("*.safetensors"), key=lambda path: path.stem)


@pytest.mark.parametrize(
    "sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_stopped_training_goes_on_in_the_same_run(
    workspace: Workspace, undisturbed: list[bytes], sent: signal.Signals
) -> None:
    for after in (2, 6):
        stop(workspace, after, sent)
    kept = int(checkpoints(workspace)[-1].stem)
    assert kept >= 6
    output = workspace.run(*TRAIN)
    assert f"after epoch {kept}" in output
    assert [workspace.read(name) for name in OUTS] == undisturbed
    first, second = spool(workspace)
    for folder in (first, second):
        assert_shown(workspace, folder)
    (run,) = [run for run in runs(workspace) if run.info.run_name == second.name]
    assert run.info.status == "FINISHED"
    assert "error" not in run.data.tags
    steps = [point.step for point in event_files(workspace, run).Scalars("Test/Total Loss")]
    assert steps == list(range(128 * EPOCHS))
    assert checkpoints(workspace) == []


@pytest.mark.slow
def test_a_stopped_run_is_killed_in_mlflow_until_it_goes_on(
    workspace: Workspace, undisturbed: list[bytes]
) -> None:
    stop(workspace, 2)
    workspace.run("runrecord", "reap")
    stopped = spool(workspace)[-1]
    assert_shown(workspace, stopped)
    before = points_in(workspace)
    with workspace.start(*TRAIN) as process:
        assert process.stdout is not None
        wait_until(lambda: points_in(workspace) > before)
        (run,) = [run for run in runs(workspace) if run.info.run_name == stopped.name]
        status = run.info.status
        process.stdout.read()
    assert status == "RUNNING"
    assert [workspace.read(name) for name in OUTS] == undisturbed


@pytest.mark.slow
def test_another_parameter_never_picks_up_a_checkpoint(
    workspace: Workspace, undisturbed: list[bytes]
) -> None:
    del undisturbed
    stop(workspace, 3)
    workspace.set_params(vae__lr=0.002)
    output = workspace.run(*TRAIN)
    assert "going on" not in output
    assert "epoch 1/" in output
    workspace.set_params(vae__lr=0.001)
    assert "going on" in workspace.run(*TRAIN)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    workspace: Workspace, undisturbed: list[bytes]
) -> None:
    stop(workspace, 4)
    older, newest = checkpoints(workspace)
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    output = workspace.run(*TRAIN)
    assert f"warning: {newest} is damaged and set aside" in output
    assert f"after epoch {int(older.stem)}" in output
    assert [workspace.read(name) for name in OUTS] == undisturbed


@pytest.mark.slow
def test_a_live_run_is_not_taken_over(workspace: Workspace, undisturbed: list[bytes]) -> None:
    with workspace.start(*TRAIN) as live:
        assert live.stdout is not None
        read_until(live.stdout, "epoch 1/")
        assert checkpoints(workspace)
        output = workspace.run(*TRAIN)
        live.stdout.read()
    assert "going on" not in output
    assert [workspace.read(name) for name in OUTS] == undisturbed
    for folder in spool(workspace):
        assert_shown(workspace, folder)


@pytest.mark.parametrize("kind", ["adam", "rmsprop", "adadelta"])
@pytest.mark.parametrize("model_class", REGISTRY.values())
def test_a_checkpoint_holds_all_that_training_needs(
    tmp_path: Path, model_class: type[Model[Any]], kind: str
) -> None:
    data = load_mnist(SAMPLE, prepare(compute()))
    settings = config(model_class, epochs=4, optimizer=kind)

    def fresh() -> tuple[Model[Any], torch.optim.Optimizer]:
        model = initialise(model_class, settings, 0, CPU)
        return model, make_optimizer(model)

    def run(numbers: range, state: TrainingState | None = None) -> list[EpochResult]:
        epochs = []
        for result in fit(model, optimizer, data, 0, compute(), CPU, numbers):
            epochs.append(result)
            if state:
                state.history.append({"epoch": result.epoch, **result.means})
        return epochs

    model, optimizer = fresh()
    expected, whole = run(range(1, 5)), model.state_dict()

    writer = RecordWriter(tmp_path / ".runrecord" / "runs" / "run-1")
    writer.write(RunStarted("run-1", "train-ae", 0, "host", {}, {}))
    writer.write(Logged(1, 2, {"loss": 1.0}))
    kept = Checkpoints(tmp_path, "identity")
    model, optimizer = fresh()
    state = TrainingState(model, optimizer)
    run(range(1, 3), state)
    kept.save("run-1", 2, 2, state.state_dict())
    assert Checkpoints(tmp_path, "other").latest() is None
    found = kept.latest()
    assert found is not None
    assert found.epoch == 2
    model, optimizer = fresh()
    again = TrainingState(model, optimizer)
    again.load_state_dict(found.arrays)
    assert again.history == state.history
    assert [list(row) for row in again.history] == [list(row) for row in state.history]
    assert [result.steps for result in run(range(3, 5))] == [one.steps for one in expected[2:]]
    for key, value in whole.items():
        assert torch.equal(value, model.state_dict()[key])


def test_a_checkpoint_ahead_of_its_record_is_not_gone_on_with(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / ".runrecord" / "runs" / "run-1")
    writer.write(RunStarted("run-1", "train", 0, "host", {}, {}))
    kept = Checkpoints(tmp_path, "identity")
    kept.save("run-1", 1, 2, {"w": np.zeros(2)})
    assert kept.latest() is None, "the epoch is not in the record: it was lost with the power"
    writer.write(Logged(1, 1, {"loss": 1.0}))
    assert kept.latest() is not None
    writer.write(RunEnded(2, "FINISHED"))
    assert kept.latest() is None


SCRIPT = """
import sys
import numpy as np
import runrecord

class State:
    def __init__(self):
        self.w, self.seen = np.zeros(3), np.array(0)
    def state_dict(self):
        return {"w": self.w, "seen": self.seen}
    def load_state_dict(self, arrays):
        self.w, self.seen = arrays["w"], arrays["seen"]

state = State()
with runrecord.start_run("train") as run:
    for epoch in run.epochs(6, state):
        state.w = state.w + np.random.default_rng(epoch).normal(size=3) * run.params["lr"]
        state.seen = state.seen + 1
        run.log({"norm": float(np.linalg.norm(state.w))})
        run.text("note", f"epoch {epoch}")
        if len(sys.argv) > 1 and epoch == int(sys.argv[1]):
            raise SystemExit(9)
print(state.w.tobytes().hex(), int(state.seen))
"""


def test_whatever_gives_and_takes_arrays_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "project")
    workspace.path.mkdir()
    stage = "{cmd: python train.py, deps: [train.py], params: [lr]}"
    (workspace.path / "dvc.yaml").write_text(f"stages: {{train: {stage}}}")
    (workspace.path / "params.yaml").write_text("lr: 0.5")
    (workspace.path / "train.py").write_text(SCRIPT)
    for command in ("git init -q", "dvc init -q", "git add -A", "git commit -qm begin"):
        workspace.run(*command.split())
    off = {"RUNRECORD_SINKS": "off"}
    undisturbed = workspace.run("python", "train.py", environment=off)
    workspace.run("python", "train.py", "3", status=9, environment=off)
    workspace.run("python", "train.py", "5", status=9, environment=off)
    (newest,) = [path for path in checkpoints(workspace) if path.stem == "000004"]
    newest.write_bytes(newest.read_bytes()[:100])
    again = workspace.run("python", "train.py", environment=off)
    assert "is damaged and set aside" in again
    assert "after epoch 3" in again
    assert again.splitlines()[-1] == undisturbed.splitlines()[-1]
    first, second = (Record(files_in(folder)) for folder in spool(workspace))
    assert compare(first, second, 0).verdict == "bit-identical"
    logged = [event for event in second.events() if isinstance(event, Logged)]
    assert [event.step for event in logged if event.metrics] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in logged if event.texts] == [1, 2, 3, 4, 5, 6]
    assert checkpoints(workspace) == []
    workspace.run("python", "train.py", "3", status=9, environment=off)
    (workspace.path / "params.yaml").write_text("lr: 0.25")
    assert "going on" not in workspace.run("python", "train.py", environment=off)


def test_abandoned_checkpoints_do_not_pile_up(tmp_path: Path) -> None:
    for number in range(9):
        name = f"run-{number}"
        journal = RecordWriter(tmp_path / ".runrecord" / "runs" / name)
        journal.write(RunStarted(name, "train-ae", 0, "host", {}, {}))
        if number == 8:
            journal.write(RunEnded(1, "FINISHED"))
        folder = tmp_path / ".runrecord" / "checkpoints" / f"identity-{number}" / f"run-{number}"
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    Checkpoints(tmp_path, "mine").remove("run-x")
    left = {path.name for path in (tmp_path / ".runrecord" / "checkpoints").glob("*/*")}
    assert left == {f"run-{number}" for number in range(3, 8)}, "the last five that may go on"
