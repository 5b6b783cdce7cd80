"""The steps of an epoch, and the check that a CUDA graph has to pass before it takes any."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from workspaces import SAMPLE

from generative.core.compute import prepare
from generative.core.cuda_graph import Graphs, Step
from generative.core.images import load_images
from generative.core.loop import Steps, initialise, make_optimizers
from generative.models.gan import GAN
from generative.models.registry import REGISTRY
from models import CPU, compute, config

INDEX = torch.arange(100)
EPOCHS = (1, 2, 3)


def steps(model: str, device: torch.device = CPU, **settings: Any) -> Steps:
    data = load_images(SAMPLE, device)
    model_class = REGISTRY[model]
    network = initialise(model_class, config(model_class, **settings), 0, device)
    computing = compute(device=device.type)
    return Steps(network, make_optimizers(network), data.train, computing, device)


@pytest.mark.parametrize("model", REGISTRY)
def test_a_step_agrees_that_changes_all_alike_and_what_was_tried_leaves_no_trace(
    model: str,
) -> None:
    prepare(compute())
    disturbed, undisturbed = steps(model), steps(model)
    graphs = Graphs(disturbed, compared=True)
    for one in (disturbed, undisturbed):
        one.epoch(0, 1)

    def other_noise(index: Tensor) -> Tensor:
        torch.rand(1, generator=disturbed.noise)
        return disturbed.eager(index)

    def other_order(index: Tensor) -> Tensor:
        return disturbed.eager(index.flip(0))

    def no_step(index: Tensor) -> Tensor:
        with graphs.restored():
            return disturbed.eager(index)

    assert graphs.agree(disturbed.eager, disturbed.eager, INDEX)
    for other in (other_noise, other_order, no_step):
        assert not graphs.agree(disturbed.eager, other, INDEX)
    assert torch.equal(disturbed.epoch(0, 2), undisturbed.epoch(0, 2))


def test_each_epoch_has_noise_of_its_own_the_same_whenever_it_is_taken() -> None:
    """A generator's input, the latents, is noise alone, whatever the images and their order."""
    prepare(compute())
    network = initialise(GAN, config(GAN), 0, CPU)
    train = load_images(SAMPLE, CPU).train
    taken = Steps(network, make_optimizers(network), train, compute(), CPU)
    latents: list[Tensor] = []
    network.generator.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0]))

    def noise_of(seed: int, number: int) -> Tensor:
        latents.clear()
        taken.epoch(seed, number)
        return torch.cat(latents)

    first, second, other = noise_of(0, 1), noise_of(0, 2), noise_of(1, 1)
    assert not (first == second).any()
    assert not (first == other).any()
    assert torch.equal(noise_of(0, 1), first)
    assert torch.equal(noise_of(0, 2), second)


class OnTheCpu(Graphs):
    """What takes steps where there is no stream to take them on."""

    @contextmanager
    def epoch(self) -> Iterator[Step]:
        self.replay = None
        yield self.take


class Broken:
    """A graph whose capture fails, as a model that waits for the device lets it."""

    def __init__(self) -> None:
        raise RuntimeError("operation not permitted when stream is capturing.\nIts trace.")


def test_where_a_graph_cannot_be_captured_a_line_says_why_and_steps_are_single(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once; of 80 images a step, the fourth of an epoch is a short one, and the fifth is tried."""
    prepare(compute())
    failing, single = (steps("vae", batch_size=80) for _ in range(2))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Broken)
    failing.graphs, noise = OnTheCpu(failing, compared=True), failing.noise
    for number in EPOCHS:
        assert torch.equal(failing.epoch(0, number), single.epoch(0, number))
    assert failing.graphs.replay is None
    assert failing.noise is not noise, "the old one may take itself to be captured"
    assert capfd.readouterr().err == (
        "no CUDA graph (operation not permitted when stream is capturing): steps are taken one by "
        "one, more slowly.\n"
    )


@pytest.mark.needs("cuda")
@pytest.mark.parametrize("model", REGISTRY)
def test_a_graph_gives_the_bits_of_single_steps(model: str) -> None:
    cuda = torch.device("cuda")
    prepare(compute(device="cuda"))
    replayed, single = steps(model, cuda), steps(model, cuda)
    single.graphs = None
    for number in EPOCHS:
        if model == "vae":  # what a model changes between epochs is in the next epoch's graph
            for one in (replayed, single):
                change = {"beta": 0.1 * number}
                one.model.config = one.model.config.model_copy(update=change)
        assert torch.equal(replayed.epoch(0, number), single.epoch(0, number))
    assert replayed.graphs is not None
    assert replayed.graphs.replay is not None
