"""Pictures of a record: PNG files."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_MOST = 2**26
"""Pixels: what shows pictures has them in memory, whatever a small file says that they are."""


def is_png(file: Path | io.BytesIO) -> bool:
    """Is that a whole PNG file, of as many pixels as can be shown?"""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=["PNG"]) as image:
            image.verify()
            return image.width * image.height <= _MOST
    except Exception:  # whatever Pillow says of a damaged one
        return False


def png_of(pixels: "np.ndarray[Any, Any]") -> bytes:
    """The PNG file of uint8 pixels, (H, W), (H, W, 3) or (H, W, 4).

    Raises:
        ValueError: they are none.
    """
    fits = 0 < pixels.size <= 4 * _MOST and (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    )
    if pixels.dtype != np.uint8 or not fits:
        raise ValueError(
            f"a picture has {pixels.dtype} values of shape {pixels.shape}; it should be uint8, "
            f"(H, W) or (H, W, 3), of at most {_MOST} pixels."
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()
