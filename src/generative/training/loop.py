"""Training: the loop over epochs. Knows no tracker, no file and no particular model."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from generative.data.dataset import ImageSet, Split
from generative.errors import RunFailed
from generative.models.base import MNIST_SHAPE, Model, ModelConfig, Shape
from generative.rng import generator
from generative.training.runtime import Compute, autocast
from generative.training.step import Steps, batch_means

M = TypeVar("M", bound=Model[Any])


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gives to look at.

    Keys are `Train/<loss>`, `Test/<loss>` and, where images are kept apart, `Validation/<loss>`.
    """

    epoch: int
    """Counted from 1."""
    steps: dict[str, list[float]]
    """Each loss's value at each step: its mean over that step's batch."""
    means: dict[str, float]
    """Means over examples, a short last batch weighing as many as it has."""
    preview: list[tuple[str, Tensor]]


def fit(
    model: Model[Any],
    optimizers: Sequence[Optimizer],
    data: ImageSet,
    seed: int,
    compute: Compute,
    device: torch.device,
    epochs: Iterable[int],
) -> Iterator[EpochResult]:
    """Train `model` in place, an epoch an item. A function of its arguments and nothing else.

    The model and the optimizers of its updates are as the epochs before the first left them. With
    the epoch's number, `seed` gives the order of images and all noise. All of it is on `device`.

    Raises:
        RunFailed: a loss is no longer finite.
    """
    steps = Steps(model, optimizers, data.train, compute, device)
    held = {"Test": data.test}
    if data.validation is not None:
        held = {"Validation": data.validation, **held}
    splits = {"Train": data.train, **held}
    for epoch in epochs:
        train = steps.epoch(seed, epoch)
        parts = {
            name: _test(model, steps.names, name, images, seed, compute)
            for name, images in held.items()
        }
        parts = {"Train": train, **parts}
        preview = _preview(model, data.test, seed)
        # Fetched at once: this alone waits for the device.
        fetched = torch.cat([*parts.values()]).cpu().double()
        result = EpochResult(epoch, {}, {}, preview)
        rows = torch.split(fetched, [len(part) for part in parts.values()])
        for split, losses in zip(parts, rows, strict=True):
            means = _means(losses, model.config.batch_size, len(splits[split]))
            for number, name in enumerate(steps.names):
                result.steps[f"{split}/{name}"] = losses[:, number].tolist()
                result.means[f"{split}/{name}"] = means[number].item()
        _check_finite(result, model.name)
        yield result


def initialise(
    model_class: type[M],
    config: ModelConfig,
    seed: int,
    device: torch.device,
    shape: Shape = MNIST_SHAPE,
) -> M:
    """An untrained model: weights drawn on the CPU, so that every device starts from the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(torch.device("cpu"), seed, "weights").initial_seed())
        return model_class(config, shape).to(device)


@torch.inference_mode()
def _test(
    model: Model[Any],
    losses: Sequence[str],
    name: str,
    split: Split,
    seed: int,
    compute: Compute,
) -> Tensor:
    """The batch means of those losses of a split, (batches, terms), on the device.

    With the same noise every epoch, so that epochs compare.
    """
    model.eval()
    device = split.images.device
    rng = generator(device, seed, name.lower())
    rows = []
    for images in split.batches(model.config.batch_size):
        with autocast(compute, device):
            found = model.test_losses(images, rng)
            rows.append(batch_means({loss: found[loss] for loss in losses}))
    return torch.stack(rows)


@torch.inference_mode()
def _preview(model: Model[Any], split: Split, seed: int) -> list[tuple[str, Tensor]]:
    shown = split.to_float(slice(0, model.preview_size))
    return model.preview(shown, generator(split.images.device, seed, "picture"))


def _means(losses: Tensor, batch_size: int, examples: int) -> Tensor:
    """Means over examples, (terms,), of means over batches, (batches, terms)."""
    weights = torch.full((len(losses), 1), batch_size, dtype=torch.float64)
    weights[-1] = examples - batch_size * (len(losses) - 1)
    return (losses * weights).sum(0) / examples


def _check_finite(result: EpochResult, model: str) -> None:
    for name, values in result.steps.items():
        for number, value in enumerate(values, start=1):
            if not math.isfinite(value):
                raise RunFailed(
                    f"training of '{model}' failed: {name} became {value} in epoch {result.epoch}, "
                    f"step {number}; try a smaller {model}.lr in params.yaml."
                )
