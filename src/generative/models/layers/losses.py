"""Losses an example, with targets laid out in memory as the layers here leave images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from generative.models.layers.strided_cpu import to_batch_last


def squared_error(logits: Tensor, target: Tensor) -> Tensor:
    """The mean over pixels of (sigmoid(logits) - target)^2, (B,); images are (B, C, H, W)."""
    return _mean((torch.sigmoid(logits) - to_batch_last(target)).square())


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The mean over pixels of the binary cross entropy, (B,), nats; images are (B, C, H, W)."""
    target = to_batch_last(target)
    return _mean(F.binary_cross_entropy_with_logits(logits, target, reduction="none"))


def _mean(error: Tensor) -> Tensor:
    pixels = error.flatten(1)
    return pixels.sum(1) / pixels.shape[1]  # mean() would lay the gradient out anew
