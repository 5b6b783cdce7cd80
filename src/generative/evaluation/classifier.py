"""A small classifier of the training images, in whose features samples are compared."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LinearLR

from generative.data.dataset import Split
from generative.evaluation.probes import Array
from generative.files import sha256, write_atomic
from generative.models.base import Shape
from generative.models.layers.strided_cpu import Conv2d, padding_of
from generative.rng import generator

FEATURES = 64
BATCH = 128
EPOCHS = 3
FEWEST = 200
"""Steps that it learns for at least, where there are few images."""
RATE = 0.005
"""Adam's, at the first step; it falls to 0 in a straight line."""

_SOURCES = (
    *("data/dataset.py", "evaluation/classifier.py", "models/layers/strided_cpu.py"),
    *("rng.py", "training/runtime.py"),
)
_KEY = "classifier"  # one key: safetensors writes several in no fixed order


class Classifier(nn.Module):
    """Three strided convolutions of images (B, C, H, W) in [0, 1], features, and their classes.

    Sizes in comments are those of MNIST's images, 28 x 28; K classes.
    """

    def __init__(self, shape: Shape, classes: Sequence[int]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        """The labels that its logits are of, in rising order."""
        channels, height, width = shape
        sizes = [(height >> halved, width >> halved) for halved in range(4)]  # 28, 14, 7, 3
        self.features = nn.Sequential(
            Conv2d(channels, 8, padding_of(sizes[0])),  # (B, 8, 14, 14)
            nn.ReLU(),
            Conv2d(8, 16, padding_of(sizes[1])),  # (B, 16, 7, 7)
            nn.ReLU(),
            Conv2d(16, 32, padding_of(sizes[2])),  # (B, 32, 3, 3)
            nn.ReLU(),
            nn.Flatten(),  # (B, 288)
            nn.Linear(32 * math.prod(sizes[3]), FEATURES),
            nn.ReLU(),  # (B, FEATURES)
        )
        self.logits = nn.Linear(FEATURES, len(classes))  # (B, K)

    @torch.inference_mode()
    def look_at(self, images: Tensor, at_once: int) -> tuple[Array, npt.NDArray[np.int64]]:
        """The features of images, (N, FEATURES), and the labels decided on, (N,)."""
        features = torch.cat([self.features(part) for part in torch.split(images, at_once)])
        decisions = self.logits(features).argmax(1).cpu().numpy()
        return features.cpu().numpy(), np.array(self.classes)[decisions]


def train_classifier(train: Split, seed: int) -> Classifier:
    """One that has learnt a split's labels, on its device: a function of its arguments alone.

    Weights are drawn on the CPU.
    """
    device = train.images.device
    with torch.random.fork_rng(devices=[]):
        stream = generator(torch.device("cpu"), seed, "evaluate/classifier/weights")
        torch.manual_seed(stream.initial_seed())
        classifier = _new(train)
    targets = torch.searchsorted(torch.tensor(classifier.classes, device=device), _labels(train))
    in_epoch = math.ceil(len(train) / BATCH)
    epochs = max(EPOCHS, math.ceil(FEWEST / in_epoch))
    optimizer = torch.optim.Adam(classifier.parameters(), RATE, fused=True)
    schedule = LinearLR(optimizer, 1, 0, epochs * in_epoch)
    for epoch in range(1, epochs + 1):
        stream = generator(device, seed, "evaluate/classifier/order", epoch)
        order = torch.randperm(len(train), generator=stream, device=device)
        for index in torch.split(order, BATCH):
            logits = classifier.logits(classifier.features(train.to_float(index)))
            optimizer.zero_grad()
            F.cross_entropy(logits, targets[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return classifier


def cached_classifier(
    train: Split, seed: int, circumstances: Mapping[str, object], folder: Path
) -> tuple[Classifier, str]:
    """`train_classifier`, or what it gave before, from `folder`; and the SHA-256 of its weights.

    A file there is named by the SHA-256 of all that the weights depend on, and has it inside with
    theirs: images and labels, seed, PyTorch, the code, and `circumstances`, which say where and how
    the arithmetic runs. One that is damaged or says otherwise is written anew. Nothing is
    unpickled.

    Raises:
        OSError: naming the file, when it cannot be written.
    """
    identity = _identity(train, seed, circumstances)
    path = folder / f"{identity}.safetensors"
    weights = _read(path, identity)
    if weights is None:
        trained = train_classifier(train, seed).state_dict()
        weights = {name: weight.cpu().contiguous() for name, weight in trained.items()}
        seal = f"{identity} {_digest(weights)}"
        write_atomic(path, save(weights, metadata={_KEY: seal}))
    classifier = _new(train)
    classifier.load_state_dict(weights)
    return classifier, _digest(weights)


def _read(path: Path, identity: str) -> dict[str, Tensor] | None:
    """The weights in a file of that identity; None where there is no such file, or not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            seal = (file.metadata() or {}).get(_KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return weights if seal == f"{identity} {_digest(weights)}" else None


def _digest(weights: dict[str, Tensor]) -> str:
    return hashlib.sha256(save(weights)).hexdigest()


def _identity(train: Split, seed: int, circumstances: Mapping[str, object]) -> str:
    package = Path(__file__).parents[1]
    known = {
        "images": hashlib.sha256(train.images.cpu().numpy().data).hexdigest(),
        "shape": train.images.shape,
        "labels": hashlib.sha256(_labels(train).cpu().numpy().data).hexdigest(),
        "seed": seed,
        "torch": torch.__version__,
        "code": [sha256(package / name) for name in _SOURCES],
        **circumstances,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _new(train: Split) -> Classifier:
    channels, height, width = train.images.shape[1:]
    classes = np.unique(_labels(train).cpu().numpy()).tolist()
    return Classifier((channels, height, width), classes).to(train.images.device)


def _labels(train: Split) -> Tensor:
    """As uint8, (N,)."""
    assert train.labels is not None
    return train.labels
