"""The usual way to train these models: a data set, a loader with workers, a scalar call a loss."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from tensorboardX import SummaryWriter
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor
from torchvision.utils import make_grid

from generative.core import fast_cpu
from generative.core.model import RECONSTRUCTION, TOTAL, Autoencoder, Losses, Model, Update
from generative.models.ae import AE

WORKERS = 4
_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    fast_cpu.Linear: nn.Linear,
    fast_cpu.Conv2d: nn.Conv2d,
    fast_cpu.ConvTranspose2d: nn.ConvTranspose2d,
    fast_cpu.BatchNorm2d: nn.BatchNorm2d,
}


def plain(model: Model[Any]) -> Model[Any]:
    """The model with PyTorch's own layers and losses in place of ours; the same parameters."""
    for module in model.modules():
        module.__class__ = _PLAIN.get(type(module), type(module))
    if isinstance(model, AE):
        model._losses = MethodType(_plain_losses, model)  # type: ignore[method-assign]
    return model


def _plain_losses(model: AE, images: Tensor, target: Tensor) -> Losses:
    """The mean over pixels, an example; targets lie in memory as they come."""
    logits = model.reconstruct(images)
    if model.config.loss == "mse":
        error = F.mse_loss(torch.sigmoid(logits), target, reduction="none")
    else:
        error = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    mean = error.mean((1, 2, 3))
    return {RECONSTRUCTION: mean, TOTAL: mean}


def plain_adam(update: Update) -> torch.optim.Adam:
    """Adam as PyTorch makes it."""
    betas, decay = (update.beta1, 0.999), update.weight_decay
    return torch.optim.Adam(update.parameters, update.lr, betas, weight_decay=decay)


def train(
    model: Autoencoder[Any], device: torch.device, data: Path, folder: Path
) -> Iterator[float]:
    """Train; the seconds of each epoch: training, test and preview.

    Args:
        model: untrained, with PyTorch's own layers.
        device: where it trains.
        data: the folder of MNIST's four files.
        folder: an empty one, for the data set and the event file.
    """
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in data.iterdir():
        (raw / path.name).symlink_to(path.resolve())
    loaders = {
        is_train: DataLoader(
            MNIST(str(folder), train=is_train, transform=ToTensor()),
            batch_size=model.config.batch_size,
            shuffle=is_train,
            num_workers=WORKERS,
        )
        for is_train in (True, False)
    }
    (update,) = model.updates()
    optimizer = plain_adam(update)
    noise = torch.Generator(device).manual_seed(0)
    writer = SummaryWriter(str(folder / "events"))
    steps = 0
    for epoch in range(model.config.epochs):
        started = time.perf_counter()
        model.train()
        for images, _ in loaders[True]:
            losses = model.training_losses(images.to(device), noise)
            optimizer.zero_grad()
            model.objective(losses).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            for name, values in losses.items():
                writer.add_scalar(f"Train/{name}", values.mean().item(), steps)
            steps += 1
        model.eval()
        with torch.no_grad():
            total = 0.0
            for images, _ in loaders[False]:
                total += model.test_losses(images.to(device), noise)[TOTAL].sum().item()
            writer.add_scalar("Test/Total Loss", total, epoch)
            rows = model.preview(images[: model.preview_size].to(device), noise)
            grid = make_grid(torch.cat([row for _, row in rows]), nrow=model.preview_size)
            writer.add_image("preview", grid.cpu(), epoch)
        yield time.perf_counter() - started
    writer.close()
