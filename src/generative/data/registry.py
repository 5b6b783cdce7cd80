"""The data sets that are known by name: their files, and how right ones are told."""

from collections.abc import Mapping
from dataclasses import dataclass

_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FILES = tuple(_MNIST_SHA256)
"""The files of every known data set."""


@dataclass(frozen=True)
class KnownSet:
    """A published data set in four files by MNIST's names."""

    title: str
    torchvision: str
    """The class of torchvision.datasets that has its mirrors, and MD5 sums of its .gz files."""
    mirror_variable: str
    """The environment variable that may name a folder or address of one's own."""
    sha256: Mapping[str, str] | None
    """Of each file; None where those MD5 sums are all that is known."""


KNOWN = {
    "mnist": KnownSet("MNIST", "MNIST", "MNIST_MIRROR", _MNIST_SHA256),
    "fashion-mnist": KnownSet("Fashion-MNIST", "FashionMNIST", "FASHION_MNIST_MIRROR", None),
    "kmnist": KnownSet("KMNIST", "KMNIST", "KMNIST_MIRROR", None),
}
"""By `data.name`."""
