"""A training of a real model that was stopped goes on, and ends with the same bytes."""

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow_views import assert_shown, event_files, runs
from workspaces import (
    IDENTICAL,
    OUTS,
    RECORD_ONLY,
    SAMPLE,
    TRAIN,
    Workspace,
    let_it_pause,
    spool,
    stop,
    verify,
)

from generative.core.compute import prepare
from generative.core.images import load_images
from generative.core.loop import EpochResult, fit, initialise, make_optimizers
from generative.core.model import Model
from generative.models.registry import REGISTRY
from generative.pipeline.train import TrainingState
from models import CPU, compute, config
from runrecord.record.events import (
    Logged,
    RunStarted,
)
from runrecord.record.reader import Record, files_in
from runrecord.record.writer import RecordWriter
from runrecord.resume.checkpoints import Checkpoints
from runrecord.verify.compare import compare


@pytest.mark.slow
def test_a_stopped_training_of_a_real_model_goes_on_in_the_same_run(workspace: Workspace) -> None:
    """The one with two networks and optimizers; test_choice.py stops another."""
    let_it_pause(workspace)
    workspace.set_params(gan__batch_size=1, gan__epochs=8)
    train = ("python", "stages/train_gan.py")
    outs = [name.replace("vae", "gan") for name in OUTS]
    workspace.run(*train)
    undisturbed = [workspace.read(name) for name in outs]
    stop(workspace, 1, signal.SIGKILL, train)
    stop(workspace, 4, signal.SIGTERM, train)
    output = workspace.run(*train)
    assert "after epoch 4" in output
    assert [workspace.read(name) for name in outs] == undisturbed
    first, second = spool(workspace)
    for folder in (first, second):
        assert_shown(workspace, folder)
    (run,) = [run for run in runs(workspace) if run.info.run_name == second.name]
    assert run.info.status == "FINISHED"
    assert "error" not in run.data.tags
    steps = [point.step for point in event_files(workspace, run).Scalars("Test/Generator Loss")]
    assert steps == list(range(128 * 8))
    kept = workspace.path.glob(".runrecord/checkpoints/*/*/0*")
    assert [path.stem for path in kept] == ["000008"] * 2, "where longer ones would go on"


@pytest.mark.slow
def test_a_real_training_that_is_wanted_longer_goes_on_from_where_it_ended(
    workspace: Workspace, tmp_path: Path, empty_store: Path
) -> None:
    """It costs the epochs that are more, and is a training of all of them in every other way."""
    straight = workspace.copy(tmp_path / "straight")
    straight.set_params(vae__epochs=4)
    straight.run(*TRAIN, environment=RECORD_ONLY)
    workspace.run(*TRAIN, environment=RECORD_ONLY)
    (first,) = spool(workspace)
    shutil.copyfile(empty_store, workspace.path / "mlflow.db")
    workspace.set_params(vae__epochs=4)
    output = workspace.run("dvc", "repro", "train-vae")
    assert f"continuing {first.name}: this run has its epochs 1 to 2" in output
    assert "vae epoch 2/4" not in output
    assert "vae epoch 3/4" in output
    assert [workspace.read(name) for name in OUTS] == [straight.read(name) for name in OUTS]
    assert workspace.repro("train-vae") == []
    _, second = spool(workspace)
    (alone,) = spool(straight)
    whole, longer = Record(files_in(alone)), Record(files_in(second))
    assert compare(whole, longer, 0).verdict == "bit-identical"
    assert_shown(workspace, second)
    (run,) = runs(workspace, "train-vae")
    assert run.data.tags["continues"] == first.name
    assert run.data.params["epochs"] == "4"
    steps = [point.step for point in event_files(workspace, run).Scalars("Test/Total Loss")]
    assert steps == list(range(2 * 4))
    assert IDENTICAL in verify(workspace, "records/vae")


@pytest.mark.parametrize("kind", ["adam", "rmsprop", "adadelta"])
@pytest.mark.parametrize("model_class", REGISTRY.values())
def test_a_checkpoint_holds_all_that_training_needs(
    tmp_path: Path, model_class: type[Model[Any]], kind: str
) -> None:
    data = load_images(SAMPLE, prepare(compute()))
    settings = config(model_class, epochs=4, optimizer=kind)
    keep = f"Train/{model_class.drawn_losses[0]}"

    def fresh() -> tuple[Model[Any], list[torch.optim.Optimizer]]:
        model = initialise(model_class, settings, 0, CPU)
        return model, make_optimizers(model)

    def run(numbers: range, state: TrainingState | None = None) -> list[EpochResult]:
        epochs = []
        for result in fit(model, optimizers, data, 0, compute(), CPU, numbers):
            epochs.append(result)
            if state:
                state.add(result.epoch, result.means)
        return epochs

    model, optimizers = fresh()
    expected, whole = run(range(1, 5)), model.state_dict()

    writer = RecordWriter(tmp_path / ".runrecord" / "runs" / "run-1")
    writer.write(RunStarted("run-1", "train-ae", 0, "host", {}, {}))
    writer.write(Logged(1, 2, {"loss": 1.0}))
    kept = Checkpoints(tmp_path, {"params": {"lr": 1}})
    model, optimizers = fresh()
    state = TrainingState(model, optimizers, keep)
    run(range(1, 3), state)
    kept.save("run-1", 2, 2, state.state_dict())
    assert Checkpoints(tmp_path, {"params": {"lr": 2}}).latest() is None
    found = kept.latest()
    assert found is not None
    assert found.saved.epoch == 2
    model, optimizers = fresh()
    again = TrainingState(model, optimizers, keep)
    again.load_state_dict(found.saved.arrays)
    assert again.history == state.history
    assert list(again.history) == list(state.history)
    assert [result.steps for result in run(range(3, 5))] == [one.steps for one in expected[2:]]
    for key, value in whole.items():
        assert torch.equal(value, model.state_dict()[key])
    assert again.take_kept() == state.take_kept()
    for key, array in state.state_dict().items():
        if key.startswith(("model/", "kept/")):
            assert np.array_equal(again.state_dict()[key], array), key
