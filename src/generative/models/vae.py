"""The chapter's variational autoencoder: config, network and loss."""

import math
from typing import final

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from generative.models.base import (
    KL,
    MNIST_SHAPE,
    RECONSTRUCTION,
    TOTAL,
    LatentVariableModel,
    Losses,
    ModelConfig,
    Shape,
    reparameterize,
)


class VAEConfig(ModelConfig):
    """The `vae` block of params.yaml."""

    hidden_dim: int = Field(ge=1, description="a whole number, 1 or more")
    beta: float = Field(ge=0, description="a number, 0 or more")


@final
class VAE(LatentVariableModel[VAEConfig]):
    """Two hidden layers each way; q(z|x) is a diagonal Gaussian, p(x|z) Bernoulli a pixel."""

    name = "vae"
    config_class = VAEConfig
    preview_title = "Test image - Above: Real data, below: reconstruction data"
    preview_size = 8
    losses = (RECONSTRUCTION, KL, TOTAL)
    loss_unit = "Nats an image"

    def __init__(self, config: VAEConfig, shape: Shape = MNIST_SHAPE) -> None:
        super().__init__(config, shape)
        hidden, latent, pixels = config.hidden_dim, config.latent_dim, math.prod(shape)
        self.encoder = nn.Sequential(
            nn.Flatten(),  # (B, D)
            nn.Linear(pixels, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),  # (B, N)
        )
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, pixels),
            nn.Unflatten(1, shape),
        )

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(images)
        # In float32 also under autocast: the KL would lose its digits in bfloat16.
        return self.mean(features).float(), self.log_variance(features).float()

    def decode(self, latents: Tensor) -> Tensor:
        logits: Tensor = self.decoder(latents)
        return logits

    def reconstruction_error(self, images: Tensor, latents: Tensor) -> Tensor:
        logits = self.decode(latents)
        error = F.binary_cross_entropy_with_logits(logits, images, reduction="none")
        return error.flatten(1).sum(1)

    def training_losses(self, images: Tensor, rng: Generator) -> Losses:
        terms = self.elbo_terms(images, rng)
        return {**terms, TOTAL: terms[RECONSTRUCTION] + self.config.beta * terms[KL]}

    def test_losses(self, images: Tensor, rng: Generator) -> Losses:
        return self.training_losses(images, rng)

    def objective(self, losses: Losses) -> Tensor:
        return losses[TOTAL].sum()

    def preview(self, images: Tensor, rng: Generator) -> list[tuple[str, Tensor]]:
        reconstructed = torch.sigmoid(self.decode(reparameterize(*self.posterior(images), rng)))
        return [("Real data", images), ("Reconstruction data", reconstructed)]
