"""The latent explorer: an evaluated model in, a page out that encodes and decodes by itself.

The page, made of explorer.html, needs no network: it has the weights and some test images. Latent
dimensions that say nothing stay at their mean over the test images, so that most of their weights
are left out.

Of the weights and images, bytes of equal meaning lie together, the lowest first: so they compress
best. Shapes: N images, Z latent; matrices are (O, I).
"""

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn

from generative.core.compute import CPU, generator
from generative.core.images import Split
from generative.core.model import Encodes
from generative.evaluation import random_subset
from generative.evaluation.likelihood import Likelihood
from generative.evaluation.probes import Array
from generative.evaluation.suite import Evaluated
from generative.plots.charts import CLASSES

Layers = list[nn.Module]
Packing = Callable[[Array], tuple[Array, bytes]]
"""Gives a matrix as it will be read, and the bytes."""

NO_PAGE = b'<!doctype html>\n<html lang="en">\n<title>Latent explorer</title>\n' + (
    b"<p>No model here can be shown: that takes an ELBO, an encoder and a decoder of dense layers, "
    b"and at most 3 MB of weights in the decoder.</p>\n"
)
"""What stands in a page's place where there is none."""

_WEIGHTS = 3_000_000  # bytes of compressed weights, at most
_POINTS, _POINT_BYTES = 2000, 2_000_000  # test images; bytes of them before they are compressed
_IDLE = 4  # inactive dimensions that the page has, to see that they do nothing
_CLOSE = 1e-3  # to the model's own latents and pixels; else the page would be of another model
_COMPARED = 64  # test images that are asked for that


@torch.inference_mode()
def explorer_page(found: Evaluated, test: Split, seed: int) -> bytes | None:
    """The page of a model; latents and likelihood are those of `test`. Equal input, equal bytes.

    None for a model without latents or an ELBO, with other layers than dense ones, or with a
    decoder of more than 3 MB. An encoder that does not fit in these 3 MB too is left out.
    """
    encoder = _dense(getattr(found.model, "encoder", None), getattr(found.model, "mean", None))
    decoder = _dense(getattr(found.model, "decoder", None))
    if found.latents is None or found.likelihood is None or not encoder or not decoder:
        return None
    if not isinstance(decoder[0], nn.Linear) or not isinstance(encoder[-1], nn.Linear):
        return None
    shown, mean = _shown(found.likelihood), found.latents.mean(0, dtype=np.float64)
    rest = np.setdiff1d(found.likelihood.order, shown)
    decoder[0] = resized(decoder[0], columns=shown, constant=(rest, mean[rest]))
    encoder[-1] = resized(encoder[-1], rows=shown)
    decoder, decoding = packed(decoder, floats)
    encoder, encoding = packed(encoder, scaled)
    if len(decoding) > _WEIGHTS or not _agree(found, encoder, decoder, shown, mean, test):
        return None
    has_encoder = len(decoding) + len(encoding) <= _WEIGHTS
    facts, points = _points(found.latents[:, shown], test, seed)
    facts |= {
        "model": found.model.name.upper(),
        "shape": found.model.shape,
        "shown": shown,
        "order": found.likelihood.order,
        "kl": np.round(found.likelihood.divergences, 6).tolist(),
        "active": found.likelihood.active,
        "mean": mean.tolist(),
        "colours": CLASSES,
        "decoder": [*map(_described, decoder)],
        "encoder": [*map(_described, encoder)] if has_encoder else None,
    }
    page = files("generative.evaluation").joinpath("explorer.html").read_text(encoding="utf-8")
    for mark, content in {
        "@FACTS@": json.dumps(facts).replace("<", "\\u003c"),
        "@DECODER@": _text(decoding),
        "@ENCODER@": _text(encoding) if has_encoder else "",
        "@POINTS@": _text(points),
    }.items():
        page = page.replace(mark, content)
    return page.encode()


def _dense(*parts: Any) -> Layers:
    """The layers of `parts`, less what only reshapes; none where one is of another kind."""
    layers: Layers = []
    for part in parts:
        layers += part if isinstance(part, nn.Sequential) else [part]
    layers = [layer for layer in layers if not isinstance(layer, nn.Flatten | nn.Unflatten)]
    known = (nn.Linear, nn.LeakyReLU, nn.ReLU, nn.Sigmoid)
    return layers if all(isinstance(layer, known) for layer in layers) else []


def _shown(told: Likelihood) -> list[int]:
    """The active dimensions and a few others, by falling KL."""
    units = [*zip(told.order, told.active, strict=True)]
    idle = [unit for unit, active in units if not active][:_IDLE]
    return [unit for unit, active in units if active or unit in idle]


def _agree(
    found: Evaluated, encoder: Layers, decoder: Layers, shown: list[int], mean: Any, test: Split
) -> bool:
    """Do the page's layers say of a few test images what the model says?"""
    assert isinstance(found.model, Encodes)
    assert found.latents is not None
    images, device = test.to_float(slice(0, _COMPARED)), test.images.device
    latents = torch.tensor(mean, dtype=torch.float32).repeat(len(images), 1)
    latents[:, shown] = torch.tensor(found.latents[:_COMPARED, shown])
    encoded = nn.Sequential(nn.Flatten(), *encoder)(images.cpu())
    decoded = nn.Sequential(*decoder, nn.Sigmoid())(latents[:, shown])
    expected = torch.sigmoid(found.model.decode(latents.to(device))).flatten(1).cpu()
    off = (encoded - latents[:, shown]).abs().max(), (decoded - expected).abs().max()
    return bool(max(off) < _CLOSE)


def _points(latents: Array, test: Split, seed: int) -> tuple[dict[str, Any], bytes]:
    """Of some test images: what the page tells of them; their latents and pixels, compressed."""
    bytes_each = test.images[0].numel() + 2 * latents.shape[1]
    count = max(1, min(_POINTS, _POINT_BYTES // bytes_each))
    index = random_subset(test, count, generator(CPU, seed, "evaluate/explorer"))
    chosen, places = test.subset(index), index.cpu().numpy()
    with np.errstate(invalid="ignore"):  # latents that are all the same have no variance
        pca = PCA(min(2, latents.shape[1]), svd_solver="covariance_eigh")
        pca.fit(latents.astype(np.float64))
    facts = {
        "directions": pca.components_.round(6).tolist(),
        "shares": np.nan_to_num(pca.explained_variance_ratio_).round(4).tolist(),
        "images": places.tolist(),
        "labels": None if chosen.labels is None else chosen.labels.tolist(),
    }
    _, content = scaled(np.ascontiguousarray(latents[places].T))
    return facts, zlib.compress(content + chosen.images.cpu().numpy().tobytes(), 9)


def _described(layer: nn.Module) -> dict[str, Any]:
    """What the page must know of a layer besides its numbers."""
    if isinstance(layer, nn.Linear):
        return {"linear": [layer.out_features, layer.in_features]}
    if isinstance(layer, nn.Sigmoid):
        return {"sigmoid": True}
    return {"slope": getattr(layer, "negative_slope", 0)}


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


def _text(content: bytes) -> str:
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
