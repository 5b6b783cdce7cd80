"""Pictures and embeddings as files hold them; a UserError says what cannot be recorded."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from PIL import Image
from safetensors import SafetensorError

from runrecord.errors import UserError
from runrecord.record.events import MOST
from runrecord.safety.text import reason

_MOST_PIXELS = 2**26
"""What shows pictures has them in memory, whatever size a small file says that they have."""


@dataclass(frozen=True)
class Embedding:
    """Vectors that stand for examples, with thumbnails and, where there are such, labels."""

    vectors: npt.NDArray[np.float32]  # (N, Z)
    labels: npt.NDArray[np.uint8] | None  # (N,)
    thumbnails: npt.NDArray[np.uint8]  # (N, H, W), grey, or (N, H, W, 3), red, green and blue


def unpack(content: bytes) -> Embedding:
    """The embedding in the content of a file.

    Raises:
        ValueError: it is not an embedding, or damaged.
    """
    try:
        found = safetensors.numpy.load(content)
        vectors, images, labels = found["codes"], found["images"], found.get("labels")
    except Exception:  # whatever that library says of a header that lies
        raise ValueError("it is not an embedding, or damaged") from None
    arrays = [vectors, images, *([] if labels is None else [labels])]
    kinds = [(array.dtype.name, array.ndim) for array in arrays]
    pictures = [("uint8", 3), ("uint8", 4)]
    fit = kinds[0] == ("float32", 2) and kinds[1] in pictures and kinds[2:] in ([], [("uint8", 1)])
    fit = fit and all(array.size for array in arrays) and images.shape[3:] in ((), (3,))
    if not fit or len({len(array) for array in arrays}) != 1:
        raise ValueError("its vectors, labels and images do not fit")
    return Embedding(vectors, labels, images)


def brief(value: object) -> str:
    """The beginning of a value, for a sentence."""
    return repr(value)[:60]


def readable(path: Path | str) -> Path:
    """The path of a file that can be read."""
    try:
        file = Path(path)
        if file.exists() and not file.is_file():
            raise UserError(f"cannot record {path}: it is not a file; name one.")
        with file.open("rb"):
            return file
    except OSError as error:
        raise UserError(f"cannot record {path}: {error.strerror}; name a file.") from None
    except (TypeError, ValueError):  # ValueError: NUL
        raise UserError(f"cannot record {brief(path)}: it is not the path of a file.") from None


def packed(model: str, embedding: Embedding) -> bytes:
    """An embedding, as the content of a file."""
    if not isinstance(embedding, Embedding):
        raise UserError(
            f"cannot record the embedding of {model!r}: {brief(embedding)} is not an Embedding."
        )
    try:
        arrays = {"codes": embedding.vectors, "images": embedding.thumbnails}
        if embedding.labels is not None:
            arrays["labels"] = embedding.labels
        content = safetensors.numpy.save(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        )
        if len(content) > MOST:
            raise ValueError(f"it has {len(content)} bytes, more than {MOST}")
        unpack(content)
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(f"cannot record the embedding of {model!r}: {error}.") from None
    return content


def is_png(file: Path | io.BytesIO) -> bool:
    """Is that a whole PNG file, of as many pixels as can be shown?"""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=["PNG"]) as image:
            image.verify()
            return image.width * image.height <= _MOST_PIXELS
    except Exception:  # whatever Pillow says of a damaged one
        return False


def png_of(title: str, image: "bytes | np.ndarray[Any, Any]") -> bytes:
    """A PNG file's content, of one or of uint8 pixels, (H, W), (H, W, 3) or (H, W, 4)."""
    if isinstance(image, bytes):
        if not is_png(io.BytesIO(image)):
            raise UserError(f"cannot record picture {title!r}: its bytes are not a PNG file.")
        return image
    try:
        pixels = np.asarray(image)
    except Exception as error:  # whatever a tensor says that NumPy cannot read
        raise UserError(f"cannot record picture {title!r}: {reason(error)}.") from None
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not fits or not 0 < pixels.size <= 4 * _MOST_PIXELS:
        raise UserError(
            f"cannot record picture {title!r}: it has {pixels.dtype} values of shape "
            f"{pixels.shape}; it should be uint8, (H, W) or (H, W, 3), of at most {_MOST_PIXELS} "
            "pixels."
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()
