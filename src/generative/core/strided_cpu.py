"""Convolutions by 3 x 3 windows with stride 2, up to three times as fast on a CPU as PyTorch's own.

Parameters, state dict and results are those of `torch.nn` (to rounding). With a few channels, a
blocked convolution mostly moves and pads data. Here images are laid out with the batch last,
(C, H, W, B): then windows, products and sums over channels all run along contiguous memory.
On other devices, under autocast, and where a layer is another (other windows, sides padded
differently or not halved), the layers are `torch.nn`'s.

Shapes: C channels, O output channels, B batch, N = height * width * B of the smaller images.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F


class Conv2d(nn.Conv2d):
    """(B, C, 2h, 2w) to (B, O, h, w) with padding 1; (B, C, 2h + 1, 2w + 1) without."""

    def forward(self, images: Tensor) -> Tensor:
        halved = self.padding == tuple(1 - side % 2 for side in images.shape[2:])
        if not (_is_strided(self) and halved and _is_faster(images)):
            return super().forward(images)
        out: Tensor = _Convolution.apply(images, self.weight, self.bias, self.padding[0] == 1)
        return out


class ConvTranspose2d(nn.ConvTranspose2d):
    """(B, C, h, w) to (B, O, 2h, 2w) with padding 1; to (B, O, 2h + 1, 2w + 1) without."""

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        doubled = self.output_padding == self.padding
        if not (_is_strided(self) and doubled and _is_faster(images)):
            return super().forward(images)
        out: Tensor = _Transposed.apply(images, self.weight, self.bias, self.padding[0] == 1)
        return out


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn`'s, which takes a tensor with the batch last as one image of (C, H * W, B)."""

    def forward(self, images: Tensor) -> Tensor:
        if not _is_faster(images):
            return super().forward(images)
        last = images.movedim(0, -1).contiguous()
        channels, height, width, batch = last.shape
        normal = super().forward(last.view(1, channels, height * width, batch))
        return normal.view(last.shape).movedim(-1, 0)


def _is_strided(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Is it by 3 x 3 windows, stride 2, both sides padded alike, with a bias and nothing more?"""
    return (
        (layer.kernel_size, layer.stride) == ((3, 3), (2, 2))
        and layer.padding in ((0, 0), (1, 1))
        and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
        and layer.bias is not None
    )


def _is_faster(images: Tensor) -> bool:
    return images.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


class _Convolution(Function):
    """Weights (O, C, 3, 3); the windows of the images are one matrix, (9 C, N)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, padded: bool) -> Tensor:
        batch, channels = images.shape[:2]
        windows, height, width = _windows(images.movedim(0, -1), padded)
        ctx.save_for_backward(windows, weight)
        ctx.taps, ctx.padded = (channels, 3, 3, height, width, batch), padded
        out = torch.addmm(bias[:, None], weight.flatten(1), windows)
        return out.view(-1, height, width, batch).movedim(-1, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight = ctx.saved_tensors
        flat = gradient.movedim(0, -1).reshape(len(weight), -1)
        images = None
        if ctx.needs_input_grad[0]:
            taps = (weight.flatten(1).T @ flat).view(ctx.taps)
            images = _spread(taps, ctx.padded).movedim(-1, 0)
        return images, (flat @ windows.T).view(weight.shape), flat.sum(1), None


class _Transposed(Function):
    """Weights (C, O, 3, 3); the windows of the gradient are one matrix, (9 O, N)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, padded: bool) -> Tensor:
        last = images.movedim(0, -1)
        flat = last.flatten(1)
        ctx.save_for_backward(flat, weight)
        ctx.shape, ctx.padded = last.shape, padded
        taps = (weight.flatten(1).T @ flat).view(-1, 3, 3, *last.shape[1:])
        pixels = _spread(taps, padded).add_(bias[:, None, None, None])
        return pixels.movedim(-1, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight = ctx.saved_tensors
        gradient = gradient.movedim(0, -1)
        windows, _, _ = _windows(gradient, ctx.padded)
        images = (weight.flatten(1) @ windows).view(ctx.shape).movedim(-1, 0)
        return images, (flat @ windows.T).view(weight.shape), gradient.sum((1, 2, 3)), None


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
