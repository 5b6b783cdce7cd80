"""Layers that are faster on a CPU than PyTorch's, put in place of a model's own by one function.

Parameters, state dict and results stay those of `torch.nn` (to rounding). On other devices, under
autocast, and where a layer is another kind of its class, the layers are `torch.nn`'s.

Matrix products: PyTorch gives them to MKL, which on AMD uses 256-bit kernels. For linear layers
oneDNN's 512-bit ones are up to twice as fast from the fifth generation of Zen on; on the fourth
both are level. The processor alone decides: the same machine has the same bits every time. Under
`compute.portable` all of these layers' products are oneDNN's, whose AVX2 kernels round alike on
every processor.

Convolutions by 3 x 3 windows with stride 2, up to three times as fast: with a few channels, a
blocked convolution mostly moves and pads data. Here images are laid out with the batch last,
(C, H, W, B): then windows, products and sums over channels all run along contiguous memory.

Shapes: B batch, I inputs, O outputs; C channels, N = height * width * B of the smaller images.
"""

import hashlib
import os
import re
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from generative.core.variables import PORTABLE
from generative.errors import RunFailed, UserError

PORTABLE_DIGEST = "e46c8e8e4b249076"
"""`portable_digest` on every x86-64 processor with AVX2, by this PyTorch."""

_SEED = 7792911990581196409  # of the numbers that have this digest
_ZEN_5 = 26  # AMD's number of the processor family

N = TypeVar("N", bound=nn.Module)


class _Products:
    """Of the whole process, as PyTorch's own settings are."""

    portable = False


def use_portable_products(wanted: bool) -> None:
    """Let every product be one that rounds alike on all processors, or each the fastest."""
    _Products.portable = wanted


def portable_digest() -> str:
    """What a few operations that training is made of give, in 16 hexadecimal digits."""
    # oneDNN's 256-bit and 512-bit kernels add alike where there is less to add.
    first, second = torch.randn(2, 64, 784, generator=Generator().manual_seed(_SEED))
    moment, variance, gradient = first.clone(), second.square(), first - second
    step = torch.tensor(3.0)
    torch._fused_adam_(
        [moment],
        [gradient],
        [first * 0.1],
        [variance],
        [],
        [step],
        lr=1e-3,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.0,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
    )
    found = [product(first, second), (first @ second.T), first.exp(), second.softmax(1), moment]
    digest = hashlib.sha256()
    for tensor in found:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_arithmetic() -> None:
    """Are variables set as portable products need them, and did PyTorch's libraries heed them?

    Raises:
        RunFailed: no.
    """
    for name, value in PORTABLE.items():
        if os.environ.get(name) != value:
            raise RunFailed(
                f"compute.portable is true, but {name} is not {value}: call set_variables of "
                "generative.core.variables before any library is imported, as a stage does"
            )
    torch.set_num_threads(1)  # how sums are split among more is part of a result
    if (found := portable_digest()) != PORTABLE_DIGEST:
        raise RunFailed(
            f"compute.portable is true, but arithmetic here gives {found}, not {PORTABLE_DIGEST}: "
            "the processor has no AVX2, PyTorch is of another version than requirements.lock has, "
            "or it was used before its variables were set; set compute.portable to false in "
            "params.yaml"
        )


def use_fast_layers(model: N) -> N:
    """Let a model's layers be the fast ones, in place; those that are subclasses stay.

    Raises:
        UserError: a convolution's gradient is not portable, and that was asked for.
    """
    fast = {
        nn.Linear: Linear,
        nn.Conv2d: Conv2d,
        nn.ConvTranspose2d: ConvTranspose2d,
        nn.BatchNorm2d: BatchNorm2d,
    }
    for layer in model.modules():
        layer.__class__ = fast.get(type(layer), type(layer))
        if isinstance(layer, _ConvNd) and not isinstance(layer, Conv2d | ConvTranspose2d):
            refuse_if_portable(f"the gradient of {layer}")
    return model


def refuse_if_portable(what: str) -> None:
    """Raise UserError where products are portable, and `what` is not."""
    if _Products.portable:
        raise UserError(
            f"params.yaml: compute.portable is true, but {what} differs between processors; set it "
            "to false, or see docs/seeds.md for what is portable."
        )


class Linear(nn.Linear):
    """(B, I) to (B, O)."""

    def forward(self, inputs: Tensor) -> Tensor:
        by_onednn = _Products.portable or prefers_onednn(_cpuinfo())
        is_float = inputs.dtype == torch.float32
        if inputs.dim() != 2 or self.bias is None or not (by_onednn and is_float and _here(inputs)):
            return super().forward(inputs)
        out: Tensor = Product.apply(inputs, self.weight, self.bias)
        return out


class Conv2d(nn.Conv2d):
    """(B, C, 2h, 2w) to (B, O, h, w) with padding 1; (B, C, 2h + 1, 2w + 1) without."""

    def forward(self, images: Tensor) -> Tensor:
        halved = self.padding == tuple(1 - side % 2 for side in images.shape[2:])
        if not (_is_strided(self) and halved and _here(images)):
            size = " x ".join(str(side) for side in images.shape[2:])
            refuse_if_portable(f"the gradient of {self} on images of {size}")
            return super().forward(images)
        out: Tensor = _Convolution.apply(images, self.weight, self.bias, self.padding[0] == 1)
        return out


class ConvTranspose2d(nn.ConvTranspose2d):
    """(B, C, h, w) to (B, O, 2h, 2w) with padding 1; to (B, O, 2h + 1, 2w + 1) without."""

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        doubled = self.output_padding == self.padding
        if not (_is_strided(self) and doubled and _here(images)):
            size = " x ".join(str(side) for side in images.shape[2:])
            refuse_if_portable(f"the gradient of {self} on images of {size}")
            return super().forward(images)
        out: Tensor = _Transposed.apply(images, self.weight, self.bias, self.padding[0] == 1)
        return out


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn`'s, which takes a tensor with the batch last as one image of (C, H * W, B)."""

    def forward(self, images: Tensor) -> Tensor:
        if not _here(images):
            return super().forward(images)
        last = images.movedim(0, -1).contiguous()
        channels, height, width, batch = last.shape
        normal = super().forward(last.view(1, channels, height * width, batch))
        return normal.view(last.shape).movedim(-1, 0)


def _here(inputs: Tensor) -> bool:
    """Are they on the CPU, in the precision they came in?"""
    return inputs.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def _is_strided(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Is it by 3 x 3 windows, stride 2, both sides padded alike, with a bias and nothing more?"""
    return (
        (layer.kernel_size, layer.stride) == ((3, 3), (2, 2))
        and layer.padding in ((0, 0), (1, 1))
        and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
        and layer.bias is not None
    )


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


def _times(first: Tensor, second: Tensor) -> Tensor:
    """(M, K) times (K, N): (M, N)."""
    return product(first, second.t()) if _Products.portable else first @ second


class _Convolution(Function):
    """Weights (O, C, 3, 3); the windows of the images are one matrix, (9 C, N)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, padded: bool) -> Tensor:
        batch, channels = images.shape[:2]
        windows, height, width = _windows(images.movedim(0, -1), padded)
        ctx.save_for_backward(windows, weight)
        ctx.taps, ctx.padded = (channels, 3, 3, height, width, batch), padded
        if _Products.portable:
            out = _times(weight.flatten(1), windows).add_(bias[:, None])
        else:
            out = torch.addmm(bias[:, None], weight.flatten(1), windows)
        return out.view(-1, height, width, batch).movedim(-1, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight = ctx.saved_tensors
        flat = gradient.movedim(0, -1).reshape(len(weight), -1)
        images = None
        if ctx.needs_input_grad[0]:
            taps = _times(weight.flatten(1).T, flat).view(ctx.taps)
            images = _spread(taps, ctx.padded).movedim(-1, 0)
        return images, _times(flat, windows.T).view(weight.shape), flat.sum(1), None


class _Transposed(Function):
    """Weights (C, O, 3, 3); the windows of the gradient are one matrix, (9 O, N)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, padded: bool) -> Tensor:
        last = images.movedim(0, -1)
        flat = last.flatten(1)
        ctx.save_for_backward(flat, weight)
        ctx.shape, ctx.padded = last.shape, padded
        taps = _times(weight.flatten(1).T, flat).view(-1, 3, 3, *last.shape[1:])
        pixels = _spread(taps, padded).add_(bias[:, None, None, None])
        return pixels.movedim(-1, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight = ctx.saved_tensors
        gradient = gradient.movedim(0, -1)
        windows, _, _ = _windows(gradient, ctx.padded)
        images = _times(weight.flatten(1), windows).view(ctx.shape).movedim(-1, 0)
        return images, _times(flat, windows.T).view(weight.shape), gradient.sum((1, 2, 3)), None


def _windows(images: Tensor, padded: bool) -> tuple[Tensor, int, int]:
    """The 3 x 3 windows of (C, H, W, B) at every other place, (9 C, N), and how many there are.

    With padding, windows begin a pixel above and left of the image.
    """
    if padded:
        images = F.pad(images, (0, 0, 1, 0, 1, 0))
    windows = images.unfold(1, 3, 2).unfold(2, 3, 2)  # (C, h, w, B, 3, 3)
    channels, height, width = windows.shape[:3]
    return windows.permute(0, 4, 5, 1, 2, 3).reshape(9 * channels, -1), height, width


def _spread(taps: Tensor, padded: bool) -> Tensor:
    """Add what each of the nine taps gives, (C, 3, 3, h, w, B), where it falls; `taps` is used up.

    Tap k of place i falls on pixel 2 i + k, less 1 with padding.
    """
    if not padded:
        return _weave(*_weave(*taps.unbind(1)).unbind(1))
    channels, _, _, height, width, batch = taps.shape
    taps[:, 2, :, :-1] += taps[:, 0, :, 1:]
    taps[:, 1:, 2, :, :-1] += taps[:, 1:, 0, :, 1:]
    pixels = taps[:, 1:, 1:].permute(0, 3, 1, 4, 2, 5)  # (C, h, 2, w, 2, B)
    return pixels.reshape(channels, 2 * height, 2 * width, batch)


def _weave(first: Tensor, middle: Tensor, last: Tensor) -> Tensor:
    """Tap k of place i falls on 2 i + k along the third axis."""
    before, between, places, *after = first.shape
    out = first.new_zeros(before, between, 2 * places + 1, *after)
    out[:, :, :-1:2] = first
    out[:, :, 1::2] = middle
    out[:, :, 2::2] += last
    return out


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
