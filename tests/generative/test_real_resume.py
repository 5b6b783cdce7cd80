"""A training of a real model that was stopped goes on, and ends with the same bytes."""

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
    Workspace,
    let_it_pause,
    spool,
    stop,
    verify,
)

from generative.core.images import ImageSet
from generative.core.loop import EpochResult, fit, initialise, make_optimizers
from generative.core.model import Model
from generative.models.ae import AE
from generative.models.gan import GAN
from generative.models.vae import VAE
from generative.pipeline.train import TrainingState
from models import CPU, compute, config
from runrecord.record.reader import Record, files_in
from runrecord.verify.compare import compare


@pytest.mark.slow
def test_a_real_training_that_was_stopped_and_one_that_is_wanted_longer_go_on(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Of two networks and optimizers; it is a training of all epochs in every other way."""
    train = ("python", "stages/train_gan.py")
    let_it_pause(workspace)
    workspace.set_params(gan__batch_size=1, gan__epochs=8)
    straight = workspace.copy(tmp_path / "straight")
    straight.run(*train, environment=RECORD_ONLY)
    workspace.set_params(gan__epochs=6)
    stop(workspace, 1, signal.SIGKILL, train)
    stop(workspace, 4, signal.SIGTERM, train)
    assert "after epoch 4" in workspace.run(*train)
    (stopped,) = spool(workspace)
    assert_shown(workspace, stopped)
    (run,) = runs(workspace, "train-gan")
    assert (run.info.status, "error" in run.data.tags) == ("FINISHED", False)
    steps = [point.step for point in event_files(workspace, run).Scalars("Test/Generator Loss")]
    assert steps == list(range(128 * 6))

    workspace.set_params(gan__epochs=8)
    output = workspace.run("dvc", "repro", "train-gan")
    assert f"continuing {stopped.name}: this run has its epochs 1 to 6" in output
    assert "gan epoch 6/8" not in output
    outs = [name.replace("vae", "gan") for name in OUTS]
    assert [workspace.read(name) for name in outs] == [straight.read(name) for name in outs]
    assert workspace.repro("train-gan") == []
    longer, (alone,) = spool(workspace)[-1], spool(straight)
    found = compare(Record(files_in(alone)), Record(files_in(longer)), 0)
    assert found.verdict == "bit-identical"
    assert_shown(workspace, longer)
    assert runs(workspace, "train-gan")[0].data.tags["continues"] == stopped.name
    assert IDENTICAL in verify(workspace, "records/gan")


@pytest.mark.parametrize(
    ("model_class", "kind"), [(GAN, "adam"), (AE, "rmsprop"), (VAE, "adadelta")]
)
def test_a_checkpoint_holds_all_that_training_needs(
    model_class: type[Model[Any]], kind: str, data: ImageSet
) -> None:
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

    model, optimizers = fresh()
    state = TrainingState(model, optimizers, keep)
    run(range(1, 3), state)
    saved = {name: array.copy() for name, array in state.state_dict().items()}
    model, optimizers = fresh()
    again = TrainingState(model, optimizers, keep)
    again.load_state_dict(saved)
    assert again.history == state.history
    assert [result.steps for result in run(range(3, 5))] == [one.steps for one in expected[2:]]
    for key, value in whole.items():
        assert torch.equal(value, model.state_dict()[key])
    assert again.take_kept() == state.take_kept()
    for key, array in state.state_dict().items():
        if key.startswith(("model/", "kept/")):
            assert np.array_equal(again.state_dict()[key], array), key
