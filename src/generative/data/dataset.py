"""MNIST in memory, on the device, as bytes."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from generative.data.idx import REFETCH, present, read_idx
from generative.data.mnist import TEST, TRAIN, Names
from generative.errors import UserError
from generative.files import sha256

SIDE = 28  # pixels


@dataclass(frozen=True)
class Split:
    """One split, resident on the device: images (N, 1, 28, 28) and labels (N,), both uint8."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to_float(self, index: Tensor | slice) -> Tensor:
        """The images at `index` as float32 in [0, 1], (B, 1, 28, 28)."""
        if isinstance(index, slice):
            return self.images[index] / 255
        return self.images.index_select(0, index) / 255  # seven times as fast as images[index]

    def batches(self, size: int) -> Iterator[Tensor]:
        """The images in order, `size` at a time, as `to_float` gives them."""
        for start in range(0, len(self), size):
            yield self.to_float(slice(start, start + size))

    def random_subset(self, count: int, stream: torch.Generator) -> Tensor:
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
    digests = "".join(sha256(present(directory / name)) for name in (*TRAIN, *TEST))
    digest = hashlib.sha256(digests.encode()).hexdigest()[:32]  # MLflow takes at most 36
    return Mnist(
        train=_load_split(directory, TRAIN, device),
        test=_load_split(directory, TEST, device),
        digest=digest,
    )


def _load_split(directory: Path, names: Names, device: torch.device) -> Split:
    images = read_idx(directory / names.images, dimensions=3)
    labels = read_idx(directory / names.labels, dimensions=1)
    if images.shape[1:] != (SIDE, SIDE):
        raise UserError(
            f"{directory / names.images}: images are {images.shape[1]} x {images.shape[2]} pixels, "
            f"should be {SIDE} x {SIDE}; {REFETCH}"
        )
    if len(images) != len(labels) or len(images) == 0:
        raise UserError(
            f"{directory / names.images} holds {len(images):,} images but {names.labels} "
            f"{len(labels):,} labels: files are swapped or from different sets; {REFETCH}"
        )
    return Split(
        images=torch.tensor(images).unsqueeze(1).to(device), labels=torch.tensor(labels).to(device)
    )
