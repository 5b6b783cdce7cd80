"""MNIST's four raw IDX files: where they are kept, their names and their SHA-256."""

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from generative.config import Section

DATA_DIR = Path("data/mnist")


class Names(NamedTuple):
    """Names of a split's two IDX files."""

    images: str
    labels: str


TRAIN = Names("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = Names("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

Sha256 = Annotated[
    str, Field(pattern="^[0-9a-f]{64}$", description="a SHA-256: 64 digits of 0-9, a-f")
]


class Data(Section):
    """The `data` block of params.yaml: the SHA-256 of each file."""

    train_images: Sha256
    train_labels: Sha256
    test_images: Sha256
    test_labels: Sha256

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each file, by the file's name."""
        return {
            TRAIN.images: self.train_images,
            TRAIN.labels: self.train_labels,
            TEST.images: self.test_images,
            TEST.labels: self.test_labels,
        }
