"""Layers that are faster on a CPU than PyTorch's, put in place of a model's own by one function.

Parameters, state dict and results stay those of `torch.nn` (to rounding).

Linear layers: PyTorch gives products to MKL, which on AMD uses 256-bit kernels. From the fifth
generation of Zen on, oneDNN's 512-bit ones are up to twice as fast; on the fourth both are level.
The processor alone decides: the same machine has the same bits every time.

Shapes: B batch, I inputs, O outputs.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function

from generative.core import strided_cpu

_ZEN_5 = 26  # AMD's number of the processor family

N = TypeVar("N", bound=nn.Module)


def use_fast_layers(model: N) -> N:
    """Let a model's layers be the fast ones, in place; those that are subclasses stay."""
    fast = {
        nn.Linear: Linear,
        nn.Conv2d: strided_cpu.Conv2d,
        nn.ConvTranspose2d: strided_cpu.ConvTranspose2d,
        nn.BatchNorm2d: strided_cpu.BatchNorm2d,
    }
    for layer in model.modules():
        layer.__class__ = fast.get(type(layer), type(layer))
    return model


class Linear(nn.Linear):
    """(B, I) to (B, O)."""

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 2 or self.bias is None or not _is_faster(inputs):
            return super().forward(inputs)
        out: Tensor = Product.apply(inputs, self.weight, self.bias)
        return out


class Product(Function):
    """Inputs (B, I), weights (O, I) and bias (O,) to (B, O), on a CPU, by oneDNN."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return product(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        return of_inputs, product(gradient.t(), inputs.t()), gradient.sum(0)


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Inputs (B, I) times the transpose of weights (O, I), and a bias: (B, O)."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return out


def _is_faster(inputs: Tensor) -> bool:
    return (
        inputs.device.type == "cpu"
        and inputs.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and prefers_onednn(_cpuinfo())
    )


@cache
def prefers_onednn(cpuinfo: str) -> bool:
    """Is that of /proc/cpuinfo a processor of AMD's whose 512-bit units are whole?"""
    family = re.search(r"^cpu family\s*: (\d+)$", cpuinfo, re.MULTILINE)
    is_amd = "AuthenticAMD" in cpuinfo and "avx512f" in cpuinfo
    return is_amd and family is not None and int(family[1]) >= _ZEN_5


@cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
