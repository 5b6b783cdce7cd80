"""The layers of `core/fast_cpu.py` are those of `torch.nn`, and only faster."""

import pytest
import torch
from torch import Tensor, nn
from usual import plain

from generative.core import fast_cpu
from generative.core.images import ImageSet
from generative.core.loop import fit, initialise, make_optimizers
from generative.models.ae import AE
from models import CPU, compute, config, noise

ZEN_5 = "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nflags\t\t: avx2 avx512f\n"
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
    assert len(found) == 6 + 3 * isinstance(ours, nn.BatchNorm2d)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("ours", "theirs", "shape"), LAYERS)
def test_under_autocast_they_are_torchs_own(
    ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...]
) -> None:
    ours, theirs = ours.float(), theirs.float()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(5, *shape, generator=noise("images"))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(images), theirs(images))


def test_the_autoencoder_trains_as_with_torchs_own_layers(data: ImageSet) -> None:
    losses = []
    for change in (lambda model: model, plain):
        model = change(initialise(AE, config(AE, epochs=5), 0, CPU))
        trained = fit(model, make_optimizers(model), data, 0, compute(), CPU, range(1, 6))
        losses.append([value for epoch in trained for value in epoch.steps["Train/Total Loss"]])
    ours, theirs = losses
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-6


@pytest.mark.parametrize("shape", [(100, 784, 400), (5, 8, 1)])
def test_a_linear_layer_is_that_of_torch_by_other_products(shape: tuple[int, int, int]) -> None:
    batch, inputs, outputs = shape
    layer = nn.Linear(inputs, outputs)
    images = torch.randn(batch, inputs, generator=noise("images"), requires_grad=True)
    tensors = [images, *layer.parameters()]
    weights = torch.linspace(-1, 1, batch * outputs).view(batch, outputs)

    def made(out: Tensor) -> list[Tensor]:
        return [out, *torch.autograd.grad((out * weights).sum(), tensors)]

    found = made(fast_cpu.Product.apply(images, layer.weight, layer.bias))
    for one, other in zip(found, made(layer(images)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_nobody_asks_for_the_gradient_of_the_images() -> None:
    layer = nn.Linear(4, 3)
    fast_cpu.Product.apply(torch.ones(2, 4), layer.weight, layer.bias).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.full((3, 4), 2.0))


def test_the_processor_alone_decides() -> None:
    assert fast_cpu.prefers_onednn(ZEN_5)
    assert not fast_cpu.prefers_onednn(ZEN_5.replace("26", "25")), "a Zen 4 has 256 bits a cycle"
    assert not fast_cpu.prefers_onednn(ZEN_5.replace(" avx512f", "")), (
        "of a virtual machine without them"
    )
    assert not fast_cpu.prefers_onednn(ZEN_5.replace("AuthenticAMD", "GenuineIntel"))
    assert not fast_cpu.prefers_onednn("")


def test_other_arithmetic_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generative.core.fast_cpu.prefers_onednn", lambda _: True)
    layer = fast_cpu.Linear(4, 3)
    images = torch.ones(2, 4)
    assert "Product" in type(layer(images).grad_fn).__name__
    assert "Addmm" in type(layer.double()(images.double()).grad_fn).__name__
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(images).dtype == torch.bfloat16
