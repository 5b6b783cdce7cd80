"""How well images come back, from themselves and from noisy versions of them."""

import sys
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from generative.core.compute import CPU, generator
from generative.core.images import Split
from generative.core.model import Reconstructs, add_noise
from generative.errors import UserError
from generative.evaluation import EvaluationConfig

_IMAGE = (1, 2, 3)
_LOOKED_AT = 64  # images
_MOST_PSNR = 100.0  # dB, of an image that comes back as it was
_WINDOW = 11  # pixels a side, of SSIM: 3.5 sigma each way


@torch.inference_mode()
def reconstruction_errors(
    model: Reconstructs, split: Split, config: EvaluationConfig, seed: int
) -> dict[str, Tensor]:
    """Each metric of each of a split's images, (N,); a model's metric is the mean.

    - `MSE`: squared error a pixel.
    - `BCE`: binary cross entropy, nats an image (summed over its pixels).
    - `PSNR`: peak signal-to-noise ratio, dB, peak 1, 100 at most.
    - `SSIM`: structural similarity, at most 1, Gaussian window of sigma 1.5. Wang et al., "Image
      Quality Assessment: From Error Visibility to Structural Similarity" (2004). Of images of at
      least 11 x 11 pixels, which its window needs.

    Under `Reconstruction/` the clean image goes in; under `Denoising/`, `at` each noise factor, a
    noisy one does. Both are compared with the clean one.
    """
    streams = {
        factor: generator(CPU, seed, f"evaluate/noise/{factor:g}")
        for factor in config.noise_factors
    }
    columns: dict[str, list[Tensor]] = {}
    for images in split.batches(config.batch_size):
        inputs = {"Reconstruction/{}": images}
        for factor, stream in streams.items():
            inputs[f"Denoising/{{}} at {factor:g}"] = add_noise(images, factor, stream)
        for name, given in inputs.items():
            for metric, values in image_errors(model.reconstruct(given), images).items():
                columns.setdefault(name.format(metric), []).append(values)
    return {name: torch.cat(parts) for name, parts in columns.items()}


@torch.inference_mode()
def check_logits(name: str, model: Reconstructs, split: Split, batch_size: int) -> None:
    """Warn where the model called `name` seems to reconstruct images instead of their logits.

    Raises:
        UserError: what it gives back is not of the images' shape.
    """
    images = split.to_float(slice(0, min(batch_size, _LOOKED_AT)))
    logits = model.reconstruct(images)
    if logits.shape != images.shape:
        raise UserError(
            f"model '{name}' makes {tuple(logits.shape)} of images that are {tuple(images.shape)}, "
            "(B, C, H, W); what it reconstructs should be of the same shape."
        )
    least, most = logits.min().item(), logits.max().item()
    # Logits of a model that was hardly trained lie there too, but close together.
    if least >= 0 and most <= 1 and most - least > 0.5:
        print(
            f"warning: all that '{name}' reconstructs lies in [0, 1]: is there a sigmoid at its "
            "end? It should return the logits, which come before that.",
            file=sys.stderr,
        )


def means_of(errors: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of each metric over the images."""
    return {name: values.double().mean().item() for name, values in errors.items()}


def image_errors(logits: Tensor, images: Tensor) -> dict[str, Tensor]:
    """`MSE`, `BCE`, `PSNR` and, of images that its window fits into, `SSIM`: (B,) each."""
    means = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, images, reduction="none")
    errors = {
        "MSE": F.mse_loss(means, images, reduction="none").mean(_IMAGE),
        "BCE": entropy.sum(_IMAGE),
        "PSNR": peak_signal_noise_ratio(
            means, images, (0.0, 1.0), reduction="none", dim=_IMAGE
        ).clamp(max=_MOST_PSNR),
    }
    if min(images.shape[2:]) < _WINDOW:
        return errors
    similarity = structural_similarity_index_measure(
        means, images, sigma=1.5, reduction="none", data_range=1.0
    )
    assert isinstance(similarity, Tensor)
    return errors | {"SSIM": similarity}
