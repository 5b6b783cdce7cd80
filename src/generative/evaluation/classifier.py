"""A small classifier of the training images, in whose features samples are compared."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LinearLR

from generative.core.compute import CPU, generator
from generative.core.fast_cpu import use_fast_layers
from generative.core.images import Split
from generative.core.model import Shape
from generative.evaluation.probes import Array
from generative.models.ae import padding_of

FEATURES = 64
BATCH = 128
EPOCHS = 3
FEWEST = 200
"""Steps that it learns for at least, where there are few images."""
RATE = 0.005
"""Adam's, at the first step; it falls to 0 in a straight line."""


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
            nn.Conv2d(channels, 8, 3, stride=2, padding=padding_of(sizes[0])),  # (B, 8, 14, 14)
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=padding_of(sizes[1])),  # (B, 16, 7, 7)
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=padding_of(sizes[2])),  # (B, 32, 3, 3)
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


def train_classifier(train: Split, seed: int, number: int = 0) -> Classifier:
    """The judge of that number, which has learnt a split's labels, on its device.

    A function of its arguments alone.
    """
    assert train.labels is not None
    device, (channels, height, width) = train.images.device, train.images.shape[1:]
    classes = np.unique(train.labels.cpu().numpy()).tolist()
    with torch.random.fork_rng(devices=[]):
        stream = generator(CPU, seed, f"evaluate/classifier/{number}/weights")
        torch.manual_seed(stream.initial_seed())
        classifier = use_fast_layers(Classifier((channels, height, width), classes)).to(device)
    targets = torch.searchsorted(torch.tensor(classes, device=device), train.labels)
    in_epoch = math.ceil(len(train) / BATCH)
    epochs = max(EPOCHS, math.ceil(FEWEST / in_epoch))
    optimizer = torch.optim.Adam(classifier.parameters(), RATE, fused=True)
    schedule = LinearLR(optimizer, 1, 0, epochs * in_epoch)
    for epoch in range(1, epochs + 1):
        stream = generator(CPU, seed, f"evaluate/classifier/{number}/order", epoch)
        order = torch.randperm(len(train), generator=stream).to(device)
        for index in torch.split(order, BATCH):
            logits = classifier.logits(classifier.features(train.to_float(index)))
            optimizer.zero_grad()
            F.cross_entropy(logits, targets[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return classifier
