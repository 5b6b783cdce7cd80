"""Vectors that stand for examples, as the bytes of a safetensors file and back."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError


@dataclass(frozen=True)
class Embedding:
    """Vectors that stand for examples, with labels and thumbnails."""

    vectors: npt.NDArray[np.float32]
    """(N, Z)."""
    labels: npt.NDArray[np.uint8]
    """(N,)."""
    thumbnails: npt.NDArray[np.uint8]
    """(N, H, W)."""


def pack(embedding: Embedding) -> bytes:
    """An embedding as the content of a file.

    Raises:
        ValueError: it is none that could be unpacked again.
    """
    content = safetensors.numpy.save(
        {
            "codes": embedding.vectors,
            "labels": embedding.labels,
            "images": embedding.thumbnails,
        }
    )
    unpack(content)
    return content


def unpack(content: bytes) -> Embedding:
    """What `pack` packed.

    Raises:
        ValueError: it is none, or damaged.
    """
    try:
        found = safetensors.numpy.load(content)
        vectors, labels, images = (found[key] for key in ("codes", "labels", "images"))
    except (SafetensorError, KeyError):
        raise ValueError("no embedding, or damaged") from None
    layouts = [(array.dtype.name, array.ndim) for array in (vectors, labels, images)]
    counts = {array.shape[:1] for array in (vectors, labels, images)}
    if layouts != [("float32", 2), ("uint8", 1), ("uint8", 3)] or len(counts) != 1:
        raise ValueError("an embedding whose vectors, labels and images do not fit")
    return Embedding(vectors, labels, images)
