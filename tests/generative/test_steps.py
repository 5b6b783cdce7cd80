"""The steps of an epoch, and the check that a CUDA graph has to pass before it takes any."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from workspaces import SAMPLE

from generative.data.dataset import load_images
from generative.models.gan import GAN
from generative.models.registry import REGISTRY
from generative.training.loop import initialise
from generative.training.optimizers import make_optimizers
from generative.training.runtime import prepare
from generative.training.step import Steps
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
def test_what_changes_all_alike_agrees_and_leaves_no_trace(model: str) -> None:
    prepare(compute())
    disturbed, undisturbed = steps(model), steps(model)
    for one in (disturbed, undisturbed):
        one.epoch(0, 1)
    assert disturbed.agree(disturbed.eager, disturbed.eager, INDEX)
    for number in EPOCHS[1:]:
        assert torch.equal(disturbed.epoch(0, number), undisturbed.epoch(0, number))


@pytest.mark.parametrize("model", REGISTRY)
def test_what_does_other_things_does_not_agree(model: str) -> None:
    prepare(compute())
    taken = steps(model)
    taken.epoch(0, 1)

    def other_noise(index: torch.Tensor) -> torch.Tensor:
        torch.rand(1, generator=taken._noise)
        return taken.eager(index)

    def other_order(index: torch.Tensor) -> torch.Tensor:
        return taken.eager(index.flip(0))

    def no_step(index: torch.Tensor) -> torch.Tensor:
        with taken._restored():
            return taken.eager(index)

    for other in (other_noise, other_order, no_step):
        assert not taken.agree(taken.eager, other, INDEX)


def test_each_epoch_has_noise_of_its_own_the_same_whenever_it_is_taken() -> None:
    """A generator's input, the latents, is noise alone, whatever the images and their order."""
    prepare(compute())
    network = initialise(GAN, config(GAN), 0, CPU)
    train = load_images(SAMPLE, CPU).train
    taken = Steps(network, make_optimizers(network), train, compute(), CPU)
    latents: list[torch.Tensor] = []
    network.generator.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0]))

    def noise_of(seed: int, number: int) -> torch.Tensor:
        latents.clear()
        taken.epoch(seed, number)
        return torch.cat(latents)

    first, second, other = noise_of(0, 1), noise_of(0, 2), noise_of(1, 1)
    assert not (first == second).any()
    assert not (first == other).any()
    assert torch.equal(noise_of(0, 1), first)
    assert torch.equal(noise_of(0, 2), second)


@pytest.mark.parametrize("batch_size", [100, 80])
def test_where_a_graph_cannot_be_captured_a_line_says_why_and_steps_are_single(
    batch_size: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once; of 80 images a step, the fourth of an epoch is a short one, and the fifth is tried."""

    def broken() -> None:
        raise RuntimeError("the driver is too old.\nIts trace.")

    prepare(compute())
    failing, single = (steps("vae", batch_size=batch_size) for _ in range(2))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", broken)
    monkeypatch.setattr(failing, "_stream", object())
    monkeypatch.setattr(failing, "_may_capture", True)
    monkeypatch.setattr(failing, "_on_stream", nullcontext)
    for number in EPOCHS:
        assert torch.equal(failing.epoch(0, number), single.epoch(0, number))
    assert failing._replay is None
    assert capfd.readouterr().err == (
        "no CUDA graph (the driver is too old): steps are taken one by one, more slowly.\n"
    )


@pytest.mark.needs("cuda")
@pytest.mark.parametrize("model", REGISTRY)
def test_a_graph_gives_the_bits_of_single_steps(model: str) -> None:
    cuda = torch.device("cuda")
    prepare(compute(device="cuda"))
    replayed, single = steps(model, cuda), steps(model, cuda)
    single._stream = None
    for number in EPOCHS:
        assert torch.equal(replayed.epoch(0, number), single.epoch(0, number))
    assert replayed._replay is not None
