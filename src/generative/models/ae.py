"""The chapter's denoising convolutional autoencoder, listing 13-3: config, network and loss."""

import math
from typing import Literal, final

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from generative.core.model import (
    MNIST_SHAPE,
    RECONSTRUCTION,
    TOTAL,
    Autoencoder,
    Losses,
    ModelConfig,
    Shape,
    add_noise,
)


class AEConfig(ModelConfig):
    """The `ae` block of params.yaml."""

    loss: Literal["mse", "bce"] = Field(description="mse or bce")
    noise_factor: float = Field(ge=0, le=10, description="a number from 0 to 10")
    target: Literal["noisy", "clean"] = Field(description="noisy or clean")


@final
class AE(Autoencoder[AEConfig]):
    """Encoder and decoder of three strided convolutions each, around `latent_dim` numbers.

    Sizes in comments are those of MNIST's images, 28 x 28.
    """

    name = "ae"
    config_class = AEConfig
    preview_title = "Original - Noisy - Reconstructed"
    preview_size = 5
    losses = (RECONSTRUCTION, TOTAL)

    def __init__(self, config: AEConfig, shape: Shape = MNIST_SHAPE) -> None:
        super().__init__(config, shape)
        channels, height, width = shape
        sizes = [(height >> halved, width >> halved) for halved in range(4)]  # 28, 14, 7, 3
        pads = [padding_of(size) for size in sizes[:3]]  # 1, 1, 0
        features = 32 * math.prod(sizes[3])
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 8, 3, stride=2, padding=pads[0]),  # (B, 8, 14, 14)
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=pads[1]),  # (B, 16, 7, 7)
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=pads[2]),  # (B, 32, 3, 3)
            nn.ReLU(),
            nn.Flatten(),  # (B, 288)
            nn.Linear(features, 128),
            nn.ReLU(),
            nn.Linear(128, config.latent_dim),  # (B, Z)
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.latent_dim, 128),
            nn.ReLU(),
            nn.Linear(128, features),
            nn.ReLU(),
            nn.Unflatten(1, (32, *sizes[3])),
            nn.ConvTranspose2d(32, 16, 3, stride=2, padding=pads[2], output_padding=pads[2]),
            nn.BatchNorm2d(16),  # (B, 16, 7, 7)
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 3, stride=2, padding=pads[1], output_padding=pads[1]),
            nn.BatchNorm2d(8),  # (B, 8, 14, 14)
            nn.ReLU(),
            nn.ConvTranspose2d(8, channels, 3, stride=2, padding=pads[0], output_padding=pads[0]),
        )  # (B, C, 28, 28)

    @property
    def loss_unit(self) -> str:
        errors = {"mse": "Squared error a pixel", "bce": "Cross entropy a pixel (nats)"}
        return errors[self.config.loss]

    def encode(self, images: Tensor) -> Tensor:
        latents: Tensor = self.encoder(images)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        logits: Tensor = self.decoder(latents)
        return logits

    def training_losses(self, images: Tensor, rng: Generator) -> Losses:
        noisy = add_noise(images, self.config.noise_factor, rng)
        return self._losses(noisy, noisy if self.config.target == "noisy" else images)

    def test_losses(self, images: Tensor, rng: Generator) -> Losses:  # noqa: ARG002
        return self._losses(images, images)

    def objective(self, losses: Losses) -> Tensor:
        return losses[TOTAL].mean()

    def preview(self, images: Tensor, rng: Generator) -> list[tuple[str, Tensor]]:
        noisy = add_noise(images, self.config.noise_factor, rng)
        reconstructed = torch.sigmoid(self.reconstruct(noisy))
        return [("Original", images), ("Noisy", noisy), ("Reconstructed", reconstructed)]

    def _losses(self, images: Tensor, target: Tensor) -> Losses:
        """The mean over pixels, an example."""
        logits = self.reconstruct(images)
        if self.config.loss == "mse":
            error = (torch.sigmoid(logits) - target).square()
        else:
            error = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        pixels = error.flatten(1)
        mean = pixels.sum(1) / pixels.shape[1]  # mean() would lay the gradient out anew
        return {RECONSTRUCTION: mean, TOTAL: mean}


def padding_of(size: tuple[int, int]) -> tuple[int, int]:
    """The padding of each side with which a 3 x 3 convolution of stride 2 halves it.

    And with which, as its output padding too, a transposed one doubles it again.
    """
    height, width = size
    return 1 - height % 2, 1 - width % 2
