"""Convolutions by 3 x 3 windows with stride 2, up to three times as fast on a CPU as PyTorch's own.

Parameters, state dict and results are those of `torch.nn` (to rounding). With a few channels, a
blocked convolution mostly moves and pads data. Here images are laid out with the batch last,
(C, H, W, B): then windows, products and sums over channels all run along contiguous memory.
On other devices, and under autocast, the layers are `torch.nn`'s.

Shapes: C channels, O output channels, B batch, N = height * width * B of the smaller images.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F


class Conv2d(nn.Conv2d):
    """(B, C, 2h, 2w) to (B, O, h, w) with padding 1; (B, C, 2h + 1, 2w + 1) without."""

    def __init__(self, channels: int, out_channels: int, padding: int) -> None:
        super().__init__(channels, out_channels, 3, stride=2, padding=padding)

    def forward(self, images: Tensor) -> Tensor:
        if not _is_faster(images):
            return super().forward(images)
        arguments = (_batch_last(images), self.weight, self.bias, self.padding[0] == 1)
        return _batch_first(_Convolution.apply(*arguments))


class ConvTranspose2d(nn.ConvTranspose2d):
    """(B, C, h, w) to (B, O, 2h, 2w) with padding 1; to (B, O, 2h + 1, 2w + 1) without."""

    def __init__(self, channels: int, out_channels: int, padding: int) -> None:
        super().__init__(
            channels, out_channels, 3, stride=2, padding=padding, output_padding=padding
        )

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        if not _is_faster(images):
            return super().forward(images)
        arguments = (_batch_last(images), self.weight, self.bias, self.padding[0] == 1)
        return _batch_first(_Transposed.apply(*arguments))


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn`'s, which takes a tensor with the batch last as one image of (C, H * W, B)."""

    def forward(self, images: Tensor) -> Tensor:
        if not _is_faster(images):
            return super().forward(images)
        last = _batch_last(images).contiguous()
        channels, height, width, batch = last.shape
        normal = super().forward(last.view(1, channels, height * width, batch))
        return _batch_first(normal.view(last.shape))


def _is_faster(images: Tensor) -> bool:
    return images.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def _batch_last(images: Tensor) -> Tensor:
    return images.permute(1, 2, 3, 0)


def _batch_first(images: Tensor) -> Tensor:
    return images.permute(3, 0, 1, 2)


class _Convolution(Function):
    """Weights (O, C, 3, 3); the windows of the images are one matrix, (9 C, N)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, padded: bool) -> Tensor:
        windows, height, width = _windows(images, padded)
        ctx.save_for_backward(windows, weight)
        ctx.small, ctx.padded = (images.shape[0], 3, 3, height, width, images.shape[3]), padded
        out = torch.addmm(bias[:, None], weight.flatten(1), windows)
        return out.view(-1, height, width, images.shape[3])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight = ctx.saved_tensors
        flat = gradient.reshape(len(weight), -1)
        images = None
        if ctx.needs_input_grad[0]:
            images = _spread((weight.flatten(1).T @ flat).view(ctx.small), ctx.padded)
        return images, (flat @ windows.T).view(weight.shape), flat.sum(1), None


class _Transposed(Function):
    """Weights (C, O, 3, 3); the windows of the gradient are one matrix, (9 O, N)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, padded: bool) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padded = padded
        taps = weight.flatten(1).T @ images.flatten(1)
        shape = (weight.shape[1], 3, 3, *images.shape[1:])
        return _spread(taps.view(shape), padded).add_(bias[:, None, None, None])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        windows, _, _ = _windows(gradient, ctx.padded)
        flat = images.flatten(1)
        back = (weight.flatten(1) @ windows).view(images.shape)
        return back, (flat @ windows.T).view(weight.shape), gradient.sum((1, 2, 3)), None


def _windows(images: Tensor, padded: bool) -> tuple[Tensor, int, int]:
    """The 3 x 3 windows of (C, H, W, B) at every other place, (9 C, N), and how many there are.

    With padding, windows begin a pixel above and left of the image.
    """
    if padded:
        images = F.pad(images, (0, 0, 1, 0, 1, 0))
    channels, height, width, batch = images.shape
    rows, columns = (height - 1) // 2, (width - 1) // 2
    c, h, w, b = images.stride()
    windows = images.as_strided((channels, 3, 3, rows, columns, batch), (c, h, w, 2 * h, 2 * w, b))
    return windows.reshape(9 * channels, -1), rows, columns


def _spread(taps: Tensor, padded: bool) -> Tensor:
    """Add what each of the nine taps gives, (C, 3, 3, h, w, B), where it falls; `taps` is used up.

    Tap k of place i falls on pixel 2 i + k, less 1 with padding.
    """
    channels, _, _, height, width, batch = taps.shape
    if not padded:
        out = taps.new_zeros(channels, 2 * height + 1, 2 * width + 1, batch)
        for row in range(3):
            for column in range(3):
                places = out[:, row : row + 2 * height : 2, column : column + 2 * width : 2]
                places += taps[:, row, column]
        return out
    above, even, odd = taps.unbind(1)  # of pixel rows
    odd[:, :, :-1] += above[:, :, 1:]
    out = taps.new_empty(channels, height, 2, width, 2, batch)
    for row, (left, middle, right) in enumerate((even.unbind(1), odd.unbind(1))):
        right[:, :, :-1] += left[:, :, 1:]
        out[:, :, row, :, 0] = middle
        out[:, :, row, :, 1] = right
    return out.view(channels, 2 * height, 2 * width, batch)
