"""Vectors that stand for examples, and a safetensors file of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors.numpy


@dataclass(frozen=True)
class Embedding:
    """Vectors that stand for examples, with thumbnails and, where there are such, labels."""

    vectors: npt.NDArray[np.float32]
    """(N, Z)."""
    labels: npt.NDArray[np.uint8] | None
    """(N,)."""
    thumbnails: npt.NDArray[np.uint8]
    """(N, H, W), grey, or (N, H, W, 3), red, green and blue."""


def unpack(content: bytes) -> Embedding:
    """The embedding in the content of a file.

    Raises:
        ValueError: it is not an embedding, or damaged.
    """
    try:
        found = safetensors.numpy.load(content)
        vectors, images, labels = found["codes"], found["images"], found.get("labels")
    except Exception:  # whatever that library says of a header that lies
        raise ValueError("no embedding, or damaged") from None
    arrays = [vectors, images, *([] if labels is None else [labels])]
    kinds = [(array.dtype.name, array.ndim) for array in arrays]
    pictures = [("uint8", 3), ("uint8", 4)]
    fit = kinds[0] == ("float32", 2) and kinds[1] in pictures and kinds[2:] in ([], [("uint8", 1)])
    fit = fit and all(array.size for array in arrays) and images.shape[3:] in ((), (3,))
    if not fit or len({len(array) for array in arrays}) != 1:
        raise ValueError("an embedding whose vectors, labels and images do not fit")
    return Embedding(vectors, labels, images)
