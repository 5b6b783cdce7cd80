"""The layer of `core/fast_cpu.py` is that of `torch.nn`, by other products."""

import pytest
import torch
from torch import Tensor, nn

from generative.core.fast_cpu import Linear, Product, prefers_onednn
from models import noise

ZEN_5 = "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nflags\t\t: avx2 avx512f\n"


@pytest.mark.parametrize("shape", [(100, 784, 400), (37, 400, 200), (5, 8, 1), (1, 3, 7)])
def test_results_and_gradients_are_those_of_torch(shape: tuple[int, int, int]) -> None:
    batch, inputs, outputs = shape
    layer = nn.Linear(inputs, outputs)
    images = torch.randn(batch, inputs, generator=noise("images"), requires_grad=True)
    tensors = [images, *layer.parameters()]
    weights = torch.linspace(-1, 1, batch * outputs).view(batch, outputs)

    def outcome(out: Tensor) -> list[Tensor]:
        return [out, *torch.autograd.grad((out * weights).sum(), tensors)]

    found = outcome(Product.apply(images, layer.weight, layer.bias))
    for one, other in zip(found, outcome(layer(images)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_nobody_asks_for_the_gradient_of_the_images() -> None:
    layer = nn.Linear(4, 3)
    Product.apply(torch.ones(2, 4), layer.weight, layer.bias).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.full((3, 4), 2.0))


def test_the_processor_alone_decides() -> None:
    assert prefers_onednn(ZEN_5)
    assert not prefers_onednn(ZEN_5.replace("26", "25")), "a Zen 4 has 256 bits a cycle"
    assert not prefers_onednn(ZEN_5.replace(" avx512f", "")), "of a virtual machine without them"
    assert not prefers_onednn(ZEN_5.replace("AuthenticAMD", "GenuineIntel"))
    assert not prefers_onednn("")


def test_other_arithmetic_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generative.core.fast_cpu.prefers_onednn", lambda _: True)
    layer = Linear(4, 3)
    images = torch.ones(2, 4)
    assert "Product" in type(layer(images).grad_fn).__name__
    assert "Addmm" in type(layer.double()(images.double()).grad_fn).__name__
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(images).dtype == torch.bfloat16
