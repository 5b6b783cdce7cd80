"""Reading MNIST's IDX files into memory, on the device, as bytes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from generative.errors import UserError
from generative.files import sha256
from generative.mnist_files import TEST, TRAIN, Names

SIDE = 28  # pixels
_REFETCH = "delete data/mnist and run 'dvc repro download-mnist'."


@dataclass(frozen=True)
class Split:
    """One split, resident on the device: images (N, 1, 28, 28) and labels (N,), both uint8."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def floats(self, index: Tensor | slice) -> Tensor:
        """The images at `index` as float32 in [0, 1], (B, 1, 28, 28)."""
        if isinstance(index, slice):
            return self.images[index] / 255
        return self.images.index_select(0, index) / 255  # seven times as fast as images[index]

    def choice(self, count: int, stream: torch.Generator) -> Tensor:
        """Places of `count` images drawn at random, in rising order; of all where there are fewer.

        Never every n-th: MNIST's order alternates between its two groups of writers.
        """
        order = torch.randperm(len(self), generator=stream, device=stream.device)
        return order[:count].sort().values

    def subset(self, index: Tensor) -> "Split":
        """Just the images at `index`, with their labels."""
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Mnist:
    """Both splits, and a digest of the files they were read from."""

    train: Split
    test: Split
    digest: str


def load_mnist(directory: Path, device: torch.device) -> Mnist:
    """Read the four files of `directory` onto `device`.

    Raises:
        UserError: a file is missing, truncated, swapped with another or no IDX file.
    """
    digests = "".join(sha256(_present(directory / name)) for name in (*TRAIN, *TEST))
    digest = hashlib.sha256(digests.encode()).hexdigest()[:32]  # MLflow takes at most 36
    return Mnist(
        train=_load_split(directory, TRAIN, device),
        test=_load_split(directory, TEST, device),
        digest=digest,
    )


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """An IDX file of unsigned bytes with that many dimensions, as an array.

    The format: bytes 0, 0, 8 (unsigned byte), the number of dimensions, each dimension's length
    as a big-endian 32-bit integer, then the data.

    Raises:
        UserError: the file is no such file, or shorter or longer than its header says.
    """
    content = _present(path).read_bytes()
    kind = {1: "labels", 3: "images"}[dimensions]
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(
            f"{path}: not an IDX file of {kind} (its first bytes are {content[:4].hex(' ')}, "
            f"should be 00 00 08 {dimensions:02x}); {_REFETCH}"
        )
    header = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:header].ljust(4 * dimensions, b"\0"), ">u4").tolist())
    expected = header + int(np.prod(shape))
    if len(content) != expected:
        raise UserError(
            f"{path}: has {len(content):,} bytes where its header promises {expected:,}; {_REFETCH}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _load_split(directory: Path, names: Names, device: torch.device) -> Split:
    images = read_idx(directory / names.images, dimensions=3)
    labels = read_idx(directory / names.labels, dimensions=1)
    if images.shape[1:] != (SIDE, SIDE):
        raise UserError(
            f"{directory / names.images}: images are {images.shape[1]} x {images.shape[2]} pixels, "
            f"should be {SIDE} x {SIDE}; {_REFETCH}"
        )
    if len(images) != len(labels) or len(images) == 0:
        raise UserError(
            f"{directory / names.images} holds {len(images):,} images but {names.labels} "
            f"{len(labels):,} labels: files are swapped or from different sets; {_REFETCH}"
        )
    return Split(
        images=torch.tensor(images).unsqueeze(1).to(device), labels=torch.tensor(labels).to(device)
    )


def _present(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_REFETCH}")
    return path
