"""A training that was stopped goes on in the same run, and ends with the same bytes."""

import os
import signal
from pathlib import Path
from typing import Any

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
from generative.training.loop import fit, initialise
from generative.training.optimizers import make_optimizer
from generative.training.runtime import prepare
from generative.training.state import pack_state, read_state
from runrecord.checkpoints import Checkpoints
from runrecord.events import Dataset, EpochEnded, RunEnded, RunStarted
from runrecord.record.writer import RecordWriter

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
    output = workspace.run(*TRAIN)
    assert "after epoch 7" in output or "after epoch 8" in output
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


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adadelta"])
@pytest.mark.parametrize("model_class", REGISTRY.values())
def test_a_checkpoint_holds_all_that_training_needs(
    tmp_path: Path, model_class: type[Model[Any]], optimizer: str
) -> None:
    data = load_mnist(SAMPLE, prepare(compute()))
    settings = config(model_class, epochs=4, optimizer=optimizer)

    def fresh() -> tuple[Model[Any], torch.optim.Optimizer]:
        model = initialise(model_class, settings, 0, CPU)
        return model, make_optimizer(model)

    whole, whole_optimizer = fresh()
    expected = list(fit(whole, whole_optimizer, data, 0, compute(), CPU))

    journal = RecordWriter(tmp_path / ".runrecord" / "runs" / "run-1")
    dataset = Dataset("mnist", "digest", "data")
    journal.write(RunStarted("run-1", "train-ae", 0, "host", {}, {}, dataset))
    journal.write(EpochEnded(1, 2, {}, {}, {}))
    kept = Checkpoints(tmp_path, "identity")
    model, half = fresh()
    for result in fit(model, half, data, 0, compute(), CPU):
        if result.epoch == 2:
            kept.save("run-1", 2, pack_state([{"epoch": 1}, {"epoch": 2}], model, half))
            break
    assert Checkpoints(tmp_path, "other").latest(read_state) is None
    found = kept.latest(read_state)
    assert found is not None
    model, other = fresh()
    found.state.restore(model, other)
    rest = list(fit(model, other, data, 0, compute(), CPU, len(found.state.history)))
    assert [result.steps for result in rest] == [result.steps for result in expected[2:]]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


def test_abandoned_checkpoints_do_not_pile_up(tmp_path: Path) -> None:
    dataset = Dataset("mnist", "digest", "data")
    for number in range(9):
        name = f"run-{number}"
        journal = RecordWriter(tmp_path / ".runrecord" / "runs" / name)
        journal.write(RunStarted(name, "train-ae", 0, "host", {}, {}, dataset))
        if number == 8:
            journal.write(RunEnded(1, "FINISHED"))
        folder = tmp_path / ".runrecord" / "checkpoints" / f"identity-{number}" / f"run-{number}"
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    Checkpoints(tmp_path, "mine").remove("run-x")
    left = {path.name for path in (tmp_path / ".runrecord" / "checkpoints").glob("*/*")}
    assert left == {f"run-{number}" for number in range(3, 8)}, "the last five that may go on"
