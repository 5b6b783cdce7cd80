"""Training: the loop over epochs. Knows no tracker, no file and no particular model."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from generative.data.dataset import Mnist, Split
from generative.errors import RunFailed
from generative.models.base import Model, ModelConfig
from generative.rng import generator
from generative.training.runtime import Compute, autocast
from generative.training.step import Steps, batch_means

StepLosses = dict[str, list[float]]
"""Each loss's value at each step: its mean over that step's batch."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gives to look at. Keys are `Train/<loss>` and `Test/<loss>`."""

    epoch: int
    """Counted from 1."""
    steps: StepLosses
    means: dict[str, float]
    """Means over examples, a short last batch weighing as many as it has."""
    preview: list[tuple[str, Tensor]]


def fit(
    model: Model[Any],
    optimizer: Optimizer,
    data: Mnist,
    seed: int,
    compute: Compute,
    device: torch.device,
    epochs: Iterable[int],
) -> Iterator[EpochResult]:
    """Train `model` in place, an epoch an item. A function of its arguments and nothing else.

    Args:
        model: as the epochs before the first left it.
        optimizer: likewise.
        data: both splits, on `device`.
        seed: of the order of images and of all noise, with the epoch's number.
        compute: precision.
        device: where all of it is.
        epochs: their numbers, from 1 or wherever a stopped training goes on.

    Raises:
        RunFailed: a loss is no longer finite.
    """
    steps = Steps(model, optimizer, data.train, compute, device)
    for epoch in epochs:
        train = steps.epoch(seed, epoch)
        # The same noise every epoch, so that epochs compare.
        test = losses_on(model, data.test, generator(device, seed, "test"), compute, device)
        preview = _preview(model, data.test, generator(device, seed, "picture"))
        yield _read(model, epoch, steps.names, data, train, test, preview)


def initialise(
    model_class: type[Model[Any]], config: ModelConfig, seed: int, device: torch.device
) -> Model[Any]:
    """An untrained model: weights drawn on the CPU, so that every device starts from the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(torch.device("cpu"), seed, "weights").initial_seed())
        return model_class(config).to(device)


@torch.inference_mode()
def losses_on(
    model: Model[Any], split: Split, rng: torch.Generator, compute: Compute, device: torch.device
) -> Tensor:
    """The batch means of the test losses, (batches, terms), on the device."""
    model.eval()
    rows = []
    for start in range(0, len(split), model.config.batch_size):
        images = split.to_float(slice(start, start + model.config.batch_size))
        with autocast(compute, device):
            rows.append(batch_means(model.test_losses(images, rng)))
    return torch.stack(rows)


@torch.inference_mode()
def _preview(model: Model[Any], split: Split, rng: torch.Generator) -> list[tuple[str, Tensor]]:
    model.eval()
    return model.preview(split.to_float(slice(0, model.preview_size)), rng)


def _read(
    model: Model[Any],
    epoch: int,
    names: list[str],
    data: Mnist,
    train: Tensor,
    test: Tensor,
    preview: list[tuple[str, Tensor]],
) -> EpochResult:
    """Fetch an epoch's values from the device, at once: this alone waits for the device."""
    values = torch.cat([train, test]).cpu().double()  # (steps, terms)
    steps: StepLosses = {}
    means: dict[str, float] = {}
    parts = torch.split(values, [len(train), len(test)])
    sizes = len(data.train), len(data.test)
    for split, part, size in zip(("Train", "Test"), parts, sizes, strict=True):
        weights = torch.full((len(part), 1), model.config.batch_size, dtype=torch.float64)
        weights[-1] = size - model.config.batch_size * (len(part) - 1)
        mean = (part * weights).sum(0) / size
        for number, name in enumerate(names):
            steps[f"{split}/{name}"] = part[:, number].tolist()
            means[f"{split}/{name}"] = mean[number].item()
    _check_finite(steps, epoch, model.name)
    return EpochResult(epoch, steps, means, preview)


def _check_finite(steps: StepLosses, epoch: int, model: str) -> None:
    for name, values in steps.items():
        for number, value in enumerate(values, start=1):
            if not math.isfinite(value):
                raise RunFailed(
                    f"training of '{model}' failed: {name} became {value} in epoch {epoch}, step "
                    f"{number}; try a smaller {model}.lr in params.yaml."
                )
