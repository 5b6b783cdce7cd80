"""Images in memory, on the device, as bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from generative.checks import Bytes
from generative.core.compute import CPU, generator
from generative.core.config import Data, Params, Splitting
from generative.core.idx import read_set
from generative.errors import UserError

_TEST_SEED = 0  # what test images are drawn by, whatever the seed


@dataclass(frozen=True)
class Split:
    """One split, resident on the device: images (N, C, H, W) and labels (N,), both uint8."""

    images: Tensor
    labels: Tensor | None
    """None for images without classes."""

    def __len__(self) -> int:
        return len(self.images)

    def to_float(self, index: Tensor | slice) -> Tensor:
        """The images at `index` as float32 in [0, 1], (B, C, H, W)."""
        if isinstance(index, slice):
            return self.images[index] / 255
        return self.images.index_select(0, index) / 255  # seven times as fast as images[index]

    def batches(self, size: int) -> Iterator[Tensor]:
        """The images in order, `size` at a time, as `to_float` gives them."""
        for start in range(0, len(self), size):
            yield self.to_float(slice(start, start + size))

    def subset(self, index: Tensor) -> "Split":
        """Just the images at `index`, with their labels."""
        return Split(self.images[index], None if self.labels is None else self.labels[index])


@dataclass(frozen=True)
class ImageSet:
    """The splits of a data set."""

    train: Split
    test: Split
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
    """Read the files of `directory`, as `core/idx.py` names them, onto `device`.

    What is random is drawn on the CPU, so that every device has the same images; test images are
    the same for every `seed`, so that evaluations compare. `threshold` makes each pixel black or
    white, whichever is nearer; `sampled`, white with the probability that is its value, drawn once
    (Salakhutdinov and Murray, "On the Quantitative Analysis of Deep Belief Networks", 2008, section
    4). `validation` training images are drawn at random and kept apart.

    Raises:
        UserError: a file is missing, truncated, swapped with another or no IDX file; images of
            another size; no training image would be left.
    """
    train_arrays, test_arrays = read_set(directory)
    train = _split(*train_arrays, binarize, generator(CPU, seed, "binarize/train"), device)
    test = _split(*test_arrays, binarize, generator(CPU, _TEST_SEED, "binarize/t10k"), device)
    if validation >= len(train):
        raise UserError(
            f"params.yaml: split.validation is {validation}, which leaves none of the "
            f"{len(train)} training images; make it less than {len(train)}."
        )
    apart = None
    if validation:
        order = torch.randperm(len(train), generator=generator(CPU, seed, "validation")).to(device)
        apart = train.subset(order[:validation].sort().values)
        train = train.subset(order[validation:].sort().values)
    return ImageSet(train, test, apart)


def _split(
    pixels: Bytes,
    labels: Bytes | None,
    binarize: str,
    stream: torch.Generator,
    device: torch.device,
) -> Split:
    images = torch.tensor(pixels)
    if binarize != "none":
        drawn = binarize == "sampled"
        threshold = torch.rand(images.shape, generator=stream) if drawn else torch.tensor(0.5)
        images = (images / 255 > threshold).to(torch.uint8) * 255
    return Split(images.to(device), None if labels is None else torch.tensor(labels).to(device))
