"""Pictures of a record: PNG files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def is_png(file: Path | io.BytesIO) -> bool:
    """Is that a whole PNG file?"""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.verify()
    except Exception:  # whatever Pillow says of a damaged one
        return False
    return True


def png_of(pixels: "np.ndarray[Any, Any]") -> bytes:
    """The PNG file of uint8 pixels, (H, W), (H, W, 3) or (H, W, 4).

    Raises:
        ValueError: they are none.
    """
    fits = pixels.size and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4)))
    if pixels.dtype != np.uint8 or not fits:
        raise ValueError(
            f"a picture has {pixels.dtype} values of shape {pixels.shape}; it should be uint8, "
            "(H, W) or (H, W, 3)."
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()
