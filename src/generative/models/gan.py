"""A generative adversarial network: config, networks and losses."""

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from generative.core.config import Count
from generative.core.model import (
    MNIST_SHAPE,
    Losses,
    Model,
    ModelConfig,
    Samples,
    Shape,
    Update,
    normal_like,
)

DISCRIMINATOR, GENERATOR = "Discriminator Loss", "Generator Loss"
OF_DATA, OF_SAMPLES = "D of Data", "D of Samples"
"""Means of D(x) and D(G(z)): how real the discriminator takes images to be, 0 to 1."""


class GANConfig(ModelConfig):
    """The `gan` block of params.yaml."""

    hidden_dim: Count
    beta1: float = Field(ge=0, lt=1, description="a number from 0 to below 1")
    instance_noise: float = Field(ge=0, le=10, description="a number from 0 to 10")


@final
class GAN(Model[GANConfig], Samples):
    """A generator with the layers of the variational autoencoder's decoder, and its judge.

    Dense, as Goodfellow et al., "Generative Adversarial Nets" (2014), had theirs on MNIST: it
    differs from the variational autoencoder by what it is taught, not by what it is made of. What
    keeps the judge from winning at once: noise on all that it sees (Sonderby et al., "Amortised MAP
    Inference for Image Super-resolution", 2017, section 3.3), layer norm in the generator (batch
    norm needs two images at least), Adam's beta1 of Radford et al. (2016).
    """

    name = "gan"
    config_class = GANConfig
    preview_title = "Samples of the same latents"
    preview_size = 8
    losses = ()  # of two that play against each other neither's lowest is the best
    drawn_losses = (DISCRIMINATOR, GENERATOR)
    loss_unit = "Nats an image"

    def __init__(self, config: GANConfig, shape: Shape = MNIST_SHAPE) -> None:
        super().__init__(config, shape)
        hidden, pixels = config.hidden_dim, math.prod(shape)
        self.generator = nn.Sequential(
            nn.Linear(config.latent_dim, hidden),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, pixels),
            nn.Sigmoid(),
            nn.Unflatten(1, shape),
        )
        self.discriminator = nn.Sequential(
            nn.Flatten(),  # (B, D)
            nn.Linear(pixels, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
            nn.Flatten(0),  # (B,)
        )

    def updates(self) -> Sequence[Update]:
        """The discriminator's, then the generator's."""
        shared = self.config.optimizer, self.config.lr, self.config.weight_decay, self.config.beta1
        parts = [*self.discriminator.parameters()], [*self.generator.parameters()]
        return [
            Update("discriminator", parts[0], self._judged, _mean_of(DISCRIMINATOR), *shared),
            Update("generator", parts[1], self._deceiving, _mean_of(GENERATOR), *shared),
        ]

    def test_losses(self, images: Tensor, rng: Generator) -> Losses:
        return {**self._judged(images, rng), **self._deceiving(images, rng)}

    def sample(self, count: int, rng: Generator) -> Tensor:
        device = next(self.parameters()).device
        latents = torch.randn((count, self.config.latent_dim), generator=rng, device=rng.device)
        images: Tensor = self.generator(latents.to(device))
        return images

    def preview(self, images: Tensor, rng: Generator) -> list[tuple[str, Tensor]]:
        first, second = self.sample(2 * len(images), rng).chunk(2)
        return [("Samples", first), ("More samples", second)]

    def _judged(self, images: Tensor, rng: Generator) -> Losses:
        """The discriminator's cross entropy on real images and on samples: equation 1."""
        with torch.no_grad():
            samples = self.sample(len(images), rng)
        real, drawn = self._judge(images, rng), self._judge(samples, rng)
        return {
            DISCRIMINATOR: F.softplus(-real) + F.softplus(drawn),
            OF_DATA: torch.sigmoid(real),
            OF_SAMPLES: torch.sigmoid(drawn),
        }

    def _deceiving(self, images: Tensor, rng: Generator) -> Losses:
        """The generator's -log D(G(z)), which does not saturate: Goodfellow et al., section 3."""
        judged = self._judge(self.sample(len(images), rng), rng)
        return {GENERATOR: F.softplus(-judged)}

    def _judge(self, images: Tensor, rng: Generator) -> Tensor:
        """How real images are taken to be under noise, (B,) logits."""
        noisy = images + self.config.instance_noise * normal_like(images, rng)
        logits: Tensor = self.discriminator(noisy)
        return logits


def _mean_of(loss: str) -> Callable[[Losses], Tensor]:
    return lambda losses: losses[loss].mean()
