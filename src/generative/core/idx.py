"""IDX files of unsigned bytes, the format of MNIST: their names, and how they are read and made."""

import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from generative.errors import UserError

SPLITS = ("train", "t10k")
"""As MNIST's files call training and test images."""
SMALLEST = 8  # pixels

Bytes = npt.NDArray[np.uint8]


def images_file(directory: Path, split: str) -> Path:
    """The file of a split's images, (N, H, W) or, where there is such a one, (N, H, W, C)."""
    colour = directory / f"{split}-images-idx4-ubyte"
    return colour if colour.is_file() else directory / f"{split}-images-idx3-ubyte"


def labels_file(directory: Path, split: str) -> Path:
    """The file of a split's labels, (N,), which images without classes do not have."""
    return directory / f"{split}-labels-idx1-ubyte"


def files_in(directory: Path) -> list[Path]:
    """The files of a data set, in the order in which its SHA-256 is taken."""
    files = []
    for split in SPLITS:
        labels = labels_file(directory, split)
        files += [images_file(directory, split), *([labels] if labels.is_file() else [])]
    return files


def sha256_of(directory: Path) -> str:
    """The SHA-256 of the bytes of a data set's files, one after another."""
    found = hashlib.sha256()
    for path in files_in(directory):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def read_idx(path: Path, dimensions: int) -> Bytes:
    """An IDX file of unsigned bytes with that many dimensions, as an array.

    The format: bytes 0, 0, 8 (unsigned byte), the number of dimensions, each dimension's length
    as a big-endian 32-bit integer, then the data.

    Raises:
        UserError: the file is missing, no such file, or shorter or longer than its header says.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {refetch(path)}")
    content = path.read_bytes()
    kind = "labels" if dimensions == 1 else "images"
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(
            f"{path}: not an IDX file of {kind} (its first bytes are {content[:4].hex(' ')}, "
            f"should be 00 00 08 {dimensions:02x}); {refetch(path)}"
        )
    header = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:header].ljust(4 * dimensions, b"\0"), ">u4").tolist())
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise UserError(
            f"{path}: has {len(content):,} bytes where its header promises {expected:,}; "
            f"{refetch(path)}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_split(directory: Path, split: str) -> tuple[Bytes, Bytes | None]:
    """A split's images, (N, C, H, W), and labels, (N,), or None for images without classes.

    Raises:
        UserError: a file is missing, damaged or swapped with another.
    """
    path, labels_path = images_file(directory, split), labels_file(directory, split)
    images = read_idx(path, dimensions=4 if "idx4" in path.name else 3)
    images = images[..., None] if images.ndim == 3 else images
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    labels = read_idx(labels_path, dimensions=1) if labels_path.is_file() else None
    if len(images) == 0 or (labels is not None and len(images) != len(labels)):
        counted = "no labels" if labels is None else f"{labels_path.name} {len(labels):,} labels"
        raise UserError(
            f"{path} holds {len(images):,} images but {counted}: files are swapped or from "
            f"different sets; {refetch(path)}"
        )
    return images, labels


def read_set(directory: Path) -> list[tuple[Bytes, Bytes | None]]:
    """The splits of a data set in the order of SPLITS, each as `read_split` gives it.

    Raises:
        UserError: a file is missing, damaged or swapped with another; images of a kind or a size
            that no model takes, or of two kinds; labels in one split alone.
    """
    splits = [read_split(directory, split) for split in SPLITS]
    for split, (images, _) in zip(SPLITS, splits, strict=True):
        if images.shape[1] not in (1, 3):
            raise UserError(
                f"{images_file(directory, split)}: images have {images.shape[1]} channels; should "
                "be 1 (grey) or 3 (red, green and blue)."
            )
        if min(images.shape[2:]) < SMALLEST:
            raise UserError(
                f"{images_file(directory, split)}: images are {_shown(images)}; the smallest that "
                f"the models take are {SMALLEST} x {SMALLEST}."
            )
    (train, train_labels), (test, test_labels) = splits
    if train.shape[1:] != test.shape[1:]:
        raise UserError(
            f"{images_file(directory, SPLITS[1])}: images are {_shown(test)}, those of "
            f"{images_file(directory, SPLITS[0]).name} {_shown(train)}; both should be the same."
        )
    if (train_labels is None) != (test_labels is None):
        raise UserError(f"{directory}: one split has labels, the other none; give both, or none.")
    return splits


def _shown(images: Bytes) -> str:
    channels, height, width = images.shape[1:]
    colour = "" if channels == 1 else f" in {channels} channels"
    return f"{height} x {width} pixels{colour}"


def idx_header(*shape: int) -> bytes:
    """What stands before the bytes of an IDX file of that shape."""
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()


def to_idx(array: Bytes) -> bytes:
    """An array as the content of an IDX file."""
    return idx_header(*array.shape) + array.tobytes()


def refetch(path: Path) -> str:
    """What to do about a file that is not right."""
    return f"delete {path.parent} and run 'dvc repro download-mnist'."
