"""Figures of a trained model on test images: arrays in, plain numbers out."""

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from generative.compute import generator
from generative.mnist import Split
from generative.models.base import KL, RECONSTRUCTION, LatentVariableModel, Model, add_noise
from generative.params import Section


class EvaluationConfig(Section):
    """The `evaluate` block of params.yaml."""

    batch_size: int = Field(ge=1, description="a whole number, 1 or more")
    noise_factor: float = Field(ge=0, le=10, description="a number from 0 to 10")
    pictured_images: int = Field(ge=1, le=64, description="a whole number from 1 to 64")
    samples: int = Field(ge=1, le=1024, description="a whole number from 1 to 1024")


@torch.inference_mode()
def evaluate(
    model: Model[Any], split: Split, config: EvaluationConfig, seed: int
) -> dict[str, float]:
    """Means over a split's images, whatever the batch size.

    - `MSE`: squared error a pixel, of the clean image reconstructed.
    - `BCE`: binary cross entropy, nats an image (summed over its pixels).
    - `PSNR`: peak signal-to-noise ratio, dB, peak 1, taken an image and then averaged.
    - `Denoising MSE`, `Denoising PSNR`: the noisy image in, compared with the clean one.
    - for a latent-variable model, nats an image: `ELBO` and its terms (`elbo_terms`).
    """
    device = split.images.device
    noise = generator(device, seed, "evaluate/noise")
    latents = generator(device, seed, "evaluate/latents")
    columns: dict[str, list[Tensor]] = {}
    for images in _batches(split, config.batch_size):
        logits = model.reconstruct(images)
        mse = _squared_error(logits, images)
        denoising = _squared_error(
            model.reconstruct(add_noise(images, config.noise_factor, noise)), images
        )
        figures = {
            "MSE": mse,
            "BCE": F.binary_cross_entropy_with_logits(logits, images, reduction="none")
            .flatten(1)
            .sum(1),
            "PSNR": _psnr(mse),
            "Denoising MSE": denoising,
            "Denoising PSNR": _psnr(denoising),
        }
        if isinstance(model, LatentVariableModel):
            terms = model.elbo_terms(images, latents)
            figures |= {
                "ELBO": -(terms[RECONSTRUCTION] + terms[KL]),
                "Reconstruction": terms[RECONSTRUCTION],
                "KL": terms[KL],
            }
        for name, values in figures.items():
            columns.setdefault(name, []).append(values)
    return {name: torch.cat(parts).double().mean().item() for name, parts in columns.items()}


def _batches(split: Split, size: int) -> Iterator[Tensor]:
    for start in range(0, len(split), size):
        yield split.floats(slice(start, start + size))


def _squared_error(logits: Tensor, images: Tensor) -> Tensor:
    """(B,): the mean over pixels."""
    return F.mse_loss(torch.sigmoid(logits), images, reduction="none").flatten(1).mean(1)


def _psnr(mse: Tensor) -> Tensor:
    return -10 * mse.log10()
