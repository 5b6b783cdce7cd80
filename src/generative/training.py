"""Training: one step, and the loop around it. Knows no tracker, no file and no particular model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adadelta, Adam, Optimizer, RMSprop

from generative.compute import Compute, autocast, generator
from generative.errors import RunFailed
from generative.mnist import Mnist, Split
from generative.models.base import Losses, Model, ModelConfig

Steps = dict[str, list[float]]
"""Each loss's value at each step: its mean over that step's batch."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gives to look at. Keys are `Train/<loss>` and `Test/<loss>`."""

    epoch: int
    """Counted from 1."""
    steps: Steps
    means: dict[str, float]
    """Means over examples, a short last batch weighing as many as it has."""
    picture: list[tuple[str, Tensor]]


def fit(
    model: Model[Any],
    optimizer: Optimizer,
    data: Mnist,
    seed: int,
    compute: Compute,
    device: torch.device,
    done: int = 0,
) -> Iterator[EpochResult]:
    """Train `model` in place, an epoch an item. A function of its arguments and nothing else.

    Args:
        model: as the `done` epochs before left it.
        optimizer: likewise.
        data: both splits, on `device`.
        seed: of the order of images and of all noise, with the epoch's number.
        compute: precision.
        device: where all of it is.
        done: epochs that are behind the model already.

    Raises:
        RunFailed: a loss is no longer finite.
    """
    config = model.config
    for epoch in range(done + 1, config.epochs + 1):
        order = torch.randperm(
            len(data.train), generator=generator(device, seed, "order", epoch), device=device
        )
        noise = generator(device, seed, "noise", epoch)
        model.train()
        train = []
        for index in torch.split(order, config.batch_size):
            with autocast(compute, device):
                losses = model.training_losses(data.train.floats(index), noise)
            step(model, optimizer, losses)
            train.append(_batch_means(losses))

        # The same noise every epoch, so that epochs compare.
        test = losses_on(model, data.test, generator(device, seed, "test"), compute, device)
        picture = _picture(model, data.test, generator(device, seed, "picture"))

        steps: Steps = {}
        means: dict[str, float] = {}
        for split, rows in (("Train", train), ("Test", test)):
            size = len(data.train) if split == "Train" else len(data.test)
            split_steps, split_means = _read(rows, list(losses), size, config.batch_size)
            _check_finite(split_steps, split, epoch, model.name)
            steps |= {f"{split}/{name}": values for name, values in split_steps.items()}
            means |= {f"{split}/{name}": value for name, value in split_means.items()}
        yield EpochResult(epoch, steps, means, picture)


def initialise(
    model_class: type[Model[Any]], config: ModelConfig, seed: int, device: torch.device
) -> Model[Any]:
    """An untrained model: weights drawn on the CPU, so that every device starts from the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(torch.device("cpu"), seed, "weights").initial_seed())
        return model_class(config).to(device)


def step(model: Model[Any], optimizer: Optimizer, losses: Losses) -> None:
    """Follow the gradient of the model's objective once."""
    optimizer.zero_grad(set_to_none=True)
    model.objective(losses).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.inference_mode()
def losses_on(
    model: Model[Any], split: Split, noise: torch.Generator, compute: Compute, device: torch.device
) -> list[Tensor]:
    """The batch means of the test losses, a tensor a batch."""
    model.eval()
    means = []
    for start in range(0, len(split), model.config.batch_size):
        images = split.floats(slice(start, start + model.config.batch_size))
        with autocast(compute, device):
            means.append(_batch_means(model.test_losses(images, noise)))
    return means


def make_optimizer(model: Model[Any]) -> Optimizer:
    """The optimizer that the model's config names; weight decay is the L2 penalty in all three."""
    config: ModelConfig = model.config
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    match config.optimizer:
        case "adam":
            return Adam(model.parameters(), fused=True, **settings)
        case "rmsprop":
            return RMSprop(model.parameters(), **settings)
        case "adadelta":
            return Adadelta(model.parameters(), **settings)


@torch.inference_mode()
def _picture(model: Model[Any], split: Split, noise: torch.Generator) -> list[tuple[str, Tensor]]:
    model.eval()
    return model.picture(split.floats(slice(0, model.picture_size)), noise)


def _batch_means(losses: Losses) -> Tensor:
    return torch.stack([values.detach().mean() for values in losses.values()])


def _read(
    rows: list[Tensor], names: list[str], size: int, batch_size: int
) -> tuple[Steps, dict[str, float]]:
    """Fetch an epoch's values from the device, at once: this waits for the device."""
    values = torch.stack(rows).cpu().double()  # (steps, terms)
    weights = torch.full((len(rows), 1), batch_size, dtype=torch.float64)
    weights[-1] = size - batch_size * (len(rows) - 1)
    means = (values * weights).sum(0) / size
    steps = dict(zip(names, values.T.tolist(), strict=True))
    return steps, dict(zip(names, means.tolist(), strict=True))


def _check_finite(steps: Steps, split: str, epoch: int, model: str) -> None:
    for name, values in steps.items():
        tensor = torch.tensor(values)
        if not tensor.isfinite().all():
            first = int(tensor.isfinite().logical_not().nonzero()[0])
            raise RunFailed(
                f"training of '{model}' failed: {split}/{name} became {values[first]} in epoch "
                f"{epoch}, step {first + 1}; try a smaller {model}.lr in params.yaml."
            )
