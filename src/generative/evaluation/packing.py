"""Numbers for a page, as few bytes as their precision allows: arrays in, bytes out.

Bytes of equal meaning lie together, the lowest first: so they compress best. Matrices are (O, I).
"""

import base64
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from generative.evaluation.probes import Array

Layers = list[nn.Module]
Packing = Callable[[Array], tuple[Array, bytes]]
"""Gives a matrix as it will be read, and the bytes."""


def floats(matrix: Array) -> tuple[Array, bytes]:
    """Floats of 24 bits, a float32 less its lowest 8: to 8e-6 of a number."""
    bits = matrix.astype("<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 128 & 0xFFFFFF00).astype("<u4")
    return rounded.view("<f4").astype(np.float32), _planes(rounded, 1, 4)


def scaled(matrix: Array) -> tuple[Array, bytes]:
    """Whole numbers of 16 bits after a float32 for each row that they are multiples of."""
    units = np.abs(matrix).max(1, keepdims=True) / np.float32(32767)
    units = np.where(units > 0, units, np.float32(1)).astype("<f4")
    whole = np.rint(matrix / units).clip(-32767, 32767).astype("<i2")
    return (whole * units).astype(np.float32), units.tobytes() + _planes(whole, 0, 2)


def packed(layers: Layers, packing: Packing) -> tuple[Layers, bytes]:
    """Layers as a page will have them; their weights in that packing and biases, compressed."""
    found, parts = [*layers], []
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            matrix, bias = numbers_of(layer)
            matrix, content = packing(matrix)
            found[place] = _linear(matrix, bias)
            parts += [content, bias.astype("<f4").tobytes()]
    return found, zlib.compress(b"".join(parts), 9)


def resized(
    layer: nn.Linear,
    rows: Sequence[int] | None = None,
    columns: Sequence[int] | None = None,
    constant: "tuple[np.ndarray, np.ndarray] | None" = None,
) -> nn.Linear:
    """A layer with these outputs and inputs alone; `constant` are other inputs and their values."""
    matrix, bias = numbers_of(layer)
    if constant is not None:
        bias = bias + (matrix[:, constant[0]].astype(np.float64) * constant[1]).sum(1)
    if columns is not None:
        matrix = matrix[:, columns]
    if rows is not None:
        matrix, bias = matrix[rows], bias[rows]
    return _linear(matrix, bias)


def text(content: bytes) -> str:
    """Bytes as a page holds them."""
    return base64.b64encode(content).decode()


def numbers_of(layer: nn.Linear) -> tuple[Array, Array]:
    """Weights, (O, I), and bias, (O,)."""
    matrix: Array = layer.weight.detach().float().cpu().numpy()
    if layer.bias is None:
        return matrix, np.zeros(len(matrix), np.float32)
    bias: Array = layer.bias.detach().float().cpu().numpy()
    return matrix, bias


def _linear(matrix: Array, bias: Array) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], device="meta")  # draws no weights
    layer.weight = nn.Parameter(torch.tensor(matrix), requires_grad=False)
    layer.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float32), requires_grad=False)
    return layer


def _planes(matrix: np.ndarray, first: int, last: int) -> bytes:
    """All numbers' bytes from `first` to before `last`, byte by byte."""
    columns = matrix.reshape(-1, 1).view(np.uint8)[:, first:last]
    return np.ascontiguousarray(columns.T).tobytes()
