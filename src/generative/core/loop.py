"""Training: epochs and their steps. Knows no tracker, no file and no particular model."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor
from torch.optim import Adadelta, Adam, Optimizer, RMSprop

from generative.checks import check_finite
from generative.core.compute import CPU, Compute, autocast, generator, reseed
from generative.core.cuda_graph import Graphs
from generative.core.fast_cpu import refuse_if_portable, use_fast_layers
from generative.core.images import ImageSet, Split
from generative.core.model import MNIST_SHAPE, Losses, Model, ModelConfig, Shape, Update

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


def initialise(
    model_class: type[M],
    config: ModelConfig,
    seed: int,
    device: torch.device,
    shape: Shape = MNIST_SHAPE,
) -> M:
    """An untrained model: weights drawn on the CPU, so that every device starts from the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(CPU, seed, "weights").initial_seed())
        return use_fast_layers(model_class(config, shape)).to(device)


def make_optimizers(model: Model[Any]) -> list[Optimizer]:
    """The optimizer of each of a model's updates, as params.yaml names it."""
    return [_optimizer(update) for update in model.updates()]


def fit(
    model: Model[Any],
    optimizers: Sequence[Optimizer],
    data: ImageSet,
    seed: int,
    compute: Compute,
    device: torch.device,
    epochs: Iterable[int],
) -> Iterator[EpochResult]:
    """Train `model` in place, an epoch an item, on `device`. A function of its arguments alone.

    With the epoch's number, `seed` gives the order of images and all noise: training continues from
    where earlier epochs left the model and its optimizers.

    Raises:
        RunFailed: a loss is no longer finite.
    """
    steps = Steps(model, optimizers, data.train, compute, device)
    held = {"Test": data.test}
    if data.validation is not None:
        held = {"Validation": data.validation, **held}
    for epoch in epochs:
        losses = {"Train": steps.epoch(seed, epoch)}
        for name, split in held.items():
            losses[name] = _test(model, steps.names, split, generator(device, seed, name.lower()))
        result = EpochResult(epoch, {}, {}, _preview(model, data.test, seed))
        fetched = torch.cat([*losses.values()]).cpu().double()  # this alone waits for the device
        rows = torch.split(fetched, [len(part) for part in losses.values()])
        splits = [data.train, *held.values()]
        for name, split, batches in zip(losses, splits, rows, strict=True):
            means = _means(batches, model.config.batch_size, len(split))
            for column, loss in enumerate(steps.names):
                result.steps[f"{name}/{loss}"] = batches[:, column].tolist()
                result.means[f"{name}/{loss}"] = means[column].item()
        check_finite(model.name, epoch, result.steps)
        yield result


class Steps:
    """The training steps of one model. Losses stay on the device; nothing waits for it."""

    def __init__(
        self,
        model: Model[Any],
        optimizers: Sequence[Optimizer],
        split: Split,
        compute: Compute,
        device: torch.device,
    ) -> None:
        self.names: list[str] = []
        """Of the losses, known once a step was taken."""
        self.model, self.optimizers, self._split = model, optimizers, split
        self._updates, self._compute, self._device = model.updates(), compute, device
        self.noise = Generator(device)
        self.graphs: Graphs | None = None
        if device.type == "cuda":
            self.graphs = Graphs(self, compared=compute.deterministic)

    def epoch(self, seed: int, number: int) -> Tensor:
        """Train on every image once, in an order and with noise of this epoch's own.

        Returns each loss's mean over each batch, (steps, terms), on the device.
        """
        stream = generator(self._device, seed, "order", number)
        order = torch.randperm(len(self._split), generator=stream, device=self._device)
        reseed(self.noise, seed, "noise", number)
        self.model.train()
        batches = torch.split(order, self.model.config.batch_size)
        with self.graphs.epoch() if self.graphs else nullcontext(self.eager) as take:
            return torch.stack([take(index) for index in batches])

    def eager(self, index: Tensor) -> Tensor:
        """Take one step, on the images at `index`: each of the model's updates, in order.

        Returns the mean of each loss over the batch, (terms,).
        """
        images = self._split.to_float(index)
        taken: dict[str, Tensor] = {}
        for update, optimizer in zip(self._updates, self.optimizers, strict=True):
            with autocast(self._compute, self._device):
                losses = update.losses(images, self.noise)
            step(update, optimizer, losses)
            taken |= losses
        self.names = list(taken)
        return batch_means(taken)


def step(update: Update, optimizer: Optimizer, losses: Losses) -> None:
    """Follow the gradient of an update's objective once."""
    optimizer.zero_grad()
    update.objective(losses).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        optimizer.step()


def batch_means(losses: Losses) -> Tensor:
    """The mean of each loss over the batch, (terms,)."""
    return torch.stack([values.detach().mean() for values in losses.values()])


def _optimizer(update: Update) -> Optimizer:
    """The one that an update names; weight decay is the L2 penalty in all three."""
    if update.optimizer != "adam":
        refuse_if_portable(f"the square root of {update.optimizer}")
    kinds = {"adam": Adam, "rmsprop": RMSprop, "adadelta": Adadelta}
    settings: dict[str, Any] = {}
    if update.optimizer == "adam":
        settings = {"fused": True, "betas": (update.beta1, 0.999)}
    return _without_compiler(kinds[update.optimizer])(
        update.parameters,
        lr=update.lr,
        weight_decay=update.weight_decay,
        capturable=update.parameters[0].is_cuda,  # by a CUDA graph
        **settings,
    )


def _without_compiler(kind: type[Optimizer]) -> Callable[..., Optimizer]:
    """An optimizer less the guards against being compiled: importing them takes a second.

    One of them also kept `step` from recording gradients; here its caller does.
    """
    guarded = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in guarded}
    return type(kind.__name__, (kind,), bare)


@torch.inference_mode()
def _test(model: Model[Any], losses: Sequence[str], split: Split, rng: Generator) -> Tensor:
    """The batch means of those losses of a split, (batches, terms), on the device.

    In full precision, and with the same noise every epoch, so that epochs compare.
    """
    model.eval()
    rows = []
    for images in split.batches(model.config.batch_size):
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
