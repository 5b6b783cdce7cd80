"""Linear layers by oneDNN's products, on processors where PyTorch's own leave half of them idle.

PyTorch gives products to MKL, which on AMD uses 256-bit kernels. From the fifth generation of Zen
on, oneDNN's 512-bit ones are up to twice as fast; on the fourth both are level. The processor alone
decides: the same machine has the same bits every time. Parameters, state dict and results are those
of `torch.nn` (to rounding).

Shapes: B batch, I inputs, O outputs.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

_ZEN_5 = 26  # AMD's number of the processor family


class Linear(nn.Linear):
    """(B, I) to (B, O)."""

    def forward(self, inputs: Tensor) -> Tensor:
        if not _is_faster(inputs):
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
