"""Images in memory, on the device, as bytes."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from generative.core.compute import CPU, generator
from generative.core.config import Data, Params, Splitting
from generative.core.idx import SPLITS, Bytes, files_in, read_set
from generative.errors import UserError

_TEST = 0  # what test images are drawn by, whatever the seed


@dataclass(frozen=True)
class Split:
    """One split, resident on the device: images (N, C, H, W) and labels (N,), both uint8."""

    images: Tensor
    labels: Tensor | None
    """None for images without classes."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_binary(self) -> bool:
        """Are all pixels black or white?"""
        return bool(((self.images == 0) | (self.images == 255)).all())

    def to_float(self, index: Tensor | slice) -> Tensor:
        """The images at `index` as float32 in [0, 1], (B, C, H, W)."""
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
        return order[:count].sort().values.to(self.images.device)

    def subset(self, index: Tensor) -> "Split":
        """Just the images at `index`, with their labels."""
        return Split(self.images[index], None if self.labels is None else self.labels[index])

    def to(self, device: torch.device) -> "Split":
        """The same on a device."""
        return Split(
            self.images.to(device), None if self.labels is None else self.labels.to(device)
        )


@dataclass(frozen=True)
class ImageSet:
    """The splits of a data set, and a digest of the files they were read from."""

    train: Split
    test: Split
    digest: str
    validation: Split | None = None
    """Training images kept apart; None where params.yaml keeps none."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its images."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def load_data(params: Params, device: torch.device) -> ImageSet:
    """The images that params.yaml names, onto `device`, as it has them used.

    Raises:
        UserError: a block is wrong; and as `load_images` does.
    """
    data, apart = params.section("data", Data), params.section("split", Splitting).validation
    return load_images(data.directory, device, params.seed(), data.binarize, apart)


def load_images(
    directory: Path,
    device: torch.device,
    seed: int = 0,
    binarize: Literal["none", "threshold", "sampled"] = "none",
    validation: int = 0,
) -> ImageSet:
    """Read the files of `directory` onto `device`.

    What is random is drawn on the CPU, so that every device has the same images.

    Args:
        directory: with files as `core/idx.py` names them.
        device: where they stay.
        seed: of `sampled` training images and of those that are kept apart. Test images are the
            same for every seed, so that evaluations compare.
        binarize: `none`; `threshold`, each pixel black or white, whichever is nearer; `sampled`,
            each pixel white with the probability that is its value, drawn once. Salakhutdinov and
            Murray, "On the Quantitative Analysis of Deep Belief Networks" (2008), section 4.
        validation: how many training images are kept apart, drawn at random.

    Raises:
        UserError: a file is missing, truncated, swapped with another or no IDX file; images of
            another size; no training image would be left.
    """
    train, test = (
        _split(*read, binarize, generator(CPU, drawn, f"binarize/{split}"))
        for drawn, split, read in zip((seed, _TEST), SPLITS, read_set(directory), strict=True)
    )
    digests = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files_in(directory))
    digest = hashlib.sha256(digests.encode()).hexdigest()[:32]  # MLflow takes at most 36
    if validation >= len(train):
        raise UserError(
            f"params.yaml: split.validation is {validation}, which leaves none of the "
            f"{len(train)} training images; make it less than {len(train)}."
        )
    apart = None
    if validation:
        stream = generator(CPU, seed, "validation")
        order = torch.randperm(len(train), generator=stream)
        apart = train.subset(order[:validation].sort().values).to(device)
        train = train.subset(order[validation:].sort().values)
    return ImageSet(train.to(device), test.to(device), digest, apart)


def _split(pixels: Bytes, labels: Bytes | None, binarize: str, stream: torch.Generator) -> Split:
    images = torch.tensor(pixels)
    if binarize != "none":
        drawn = binarize == "sampled"
        threshold = torch.rand(images.shape, generator=stream) if drawn else torch.tensor(0.5)
        images = (images / 255 > threshold).to(torch.uint8) * 255
    return Split(images, None if labels is None else torch.tensor(labels))
