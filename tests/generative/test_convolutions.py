"""The layers of `core/fast_cpu.py` are those of `torch.nn`, and only faster."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from usual import plain
from workspaces import SAMPLE

from generative.core import fast_cpu
from generative.core.compute import prepare
from generative.core.images import load_images
from generative.core.loop import fit, initialise, make_optimizers
from generative.models.ae import AE
from models import CPU, compute, config, noise

LAYERS: list[tuple[nn.Module, nn.Module, tuple[int, ...]]] = [
    (fast_cpu.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(2, 3, 3, 2, 1), (2, 8, 6)),
    (fast_cpu.Conv2d(2, 3, 3, 2, 0), nn.Conv2d(2, 3, 3, 2), (2, 7, 9)),
    (
        fast_cpu.ConvTranspose2d(2, 3, 3, 2, 1, 1),
        nn.ConvTranspose2d(2, 3, 3, 2, 1, 1),
        (2, 4, 3),
    ),
    (fast_cpu.ConvTranspose2d(2, 3, 3, 2, 0, 0), nn.ConvTranspose2d(2, 3, 3, 2), (2, 3, 4)),
    (fast_cpu.BatchNorm2d(2), nn.BatchNorm2d(2), (2, 4, 3)),
]


def outcome(layer: nn.Module, images: Tensor) -> list[Tensor]:
    """What a layer gives, its gradients and its state after a step of training."""
    images = images.clone().requires_grad_()
    out = layer(images)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    (out * weights).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    found = [out, images.grad, *gradients, *layer.state_dict().values()]
    return [tensor.detach() for tensor in found if tensor is not None]


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize(("ours", "theirs", "shape"), LAYERS)
def test_results_and_gradients_are_those_of_torch(
    ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...], contiguous: bool
) -> None:
    theirs = theirs.double()
    ours = ours.double()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(5, *shape, generator=noise("images"), dtype=torch.float64)
    if not contiguous:
        images = images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    found, expected = outcome(ours, images), outcome(theirs, images)
    assert (
        len(found)
        == len(expected)
        == 2 + 2 * len(list(ours.parameters())) + (3 if isinstance(ours, nn.BatchNorm2d) else 0)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [2, 8])
def test_a_later_call_leaves_the_gradients_of_an_earlier_one(size: int) -> None:
    ours, theirs = fast_cpu.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(2, 3, 3, 2, 1)
    ours.load_state_dict(theirs.state_dict())
    earlier, later = torch.randn(2, 5, 2, size, size, generator=noise("images")).unbind()
    gradients = []
    for layer in (ours, theirs):
        with torch.inference_mode():
            layer(later)
        out = layer(earlier)
        layer(later)
        out.square().sum().backward()
        gradients.append(layer.weight.grad)
    torch.testing.assert_close(*gradients)


def test_threads_do_not_disturb_each_other() -> None:
    layer = fast_cpu.Conv2d(8, 8, 3, 2, 1)
    images = torch.randn(8, 64, 8, 28, 28, generator=noise("images"))
    with torch.inference_mode(), ThreadPoolExecutor(4) as pool:
        expected = [layer(batch) for batch in images]
        for _ in range(10):
            for found, one in zip(pool.map(_in_inference(layer), images), expected, strict=True):
                assert torch.equal(found, one)


def _in_inference(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.inference_mode()(layer.forward)


@pytest.mark.parametrize(("ours", "theirs", "shape"), LAYERS)
def test_under_autocast_they_are_torchs_own(
    ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...]
) -> None:
    ours, theirs = ours.float(), theirs.float()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(5, *shape, generator=noise("images"))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(images), theirs(images))


def test_the_autoencoder_trains_as_with_torchs_own_layers() -> None:
    prepare(compute())
    data = load_images(SAMPLE, CPU)
    losses = []
    for change in (lambda model: model, plain):
        model = change(initialise(AE, config(AE, epochs=5), 0, CPU))
        trained = fit(model, make_optimizers(model), data, 0, compute(), CPU, range(1, 6))
        losses.append([value for epoch in trained for value in epoch.steps["Train/Total Loss"]])
    ours, theirs = losses
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-6
