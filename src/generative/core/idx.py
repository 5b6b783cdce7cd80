"""IDX files of unsigned bytes, the format of MNIST: their names, and how they are read."""

from pathlib import Path

import numpy as np

from generative.checks import Bytes, check_idx, check_set, check_split, refetch
from generative.errors import UserError

SPLITS = ("train", "t10k")
"""As MNIST's files call training and test images."""


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
    check_idx(path, content, dimensions)
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def read_split(directory: Path, split: str) -> tuple[Bytes, Bytes | None]:
    """A split's images, (N, C, H, W), and labels, (N,), or None for images without classes."""
    path, labels_path = images_file(directory, split), labels_file(directory, split)
    images = read_idx(path, dimensions=4 if "idx4" in path.name else 3)
    images = images[..., None] if images.ndim == 3 else images
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    labels = read_idx(labels_path, dimensions=1) if labels_path.is_file() else None
    check_split(path, images, labels_path, labels)
    return images, labels


def read_set(directory: Path) -> list[tuple[Bytes, Bytes | None]]:
    """The splits of a data set in the order of SPLITS, each as `read_split` gives it.

    Raises:
        UserError: a file is missing, damaged or swapped with another; images of a kind or a size
            that no model takes, or of two kinds; labels in one split alone.
    """
    splits = [read_split(directory, split) for split in SPLITS]
    images, labels = zip(*splits, strict=True)
    check_set([images_file(directory, split) for split in SPLITS], images, labels)
    return splits
