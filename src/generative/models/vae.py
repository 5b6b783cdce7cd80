"""The chapter's variational autoencoder: config, network and loss."""

from typing import final

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from generative.models.base import (
    KL,
    RECONSTRUCTION,
    TOTAL,
    LatentVariableModel,
    Losses,
    ModelConfig,
    normal_like,
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
    picture_title = "Test image - Above: Real data, below: reconstruction data"
    picture_size = 8

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config)
        hidden, latent = config.hidden_dim, config.latent_dim
        self.encoder = nn.Sequential(
            nn.Flatten(),  # (B, D)
            nn.Linear(784, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),  # (B, H)
        )
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 784),
            nn.Unflatten(1, (1, 28, 28)),
        )

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), (B, Z) each."""
        features = self.encoder(images)
        # In float32 also under autocast: the KL would lose its digits in bfloat16.
        return self.mean(features).float(), self.log_variance(features).float()

    def reconstruct(self, images: Tensor) -> Tensor:
        mean, _ = self.posterior(images)
        logits: Tensor = self.decoder(mean)
        return logits

    def elbo_terms(self, images: Tensor, noise: Generator) -> Losses:
        mean, log_variance = self.posterior(images)
        logits = self.decoder(_draw(mean, log_variance, noise))
        error = F.binary_cross_entropy_with_logits(logits, images, reduction="none")
        # Kingma and Welling (2014), appendix B.
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp())
        return {RECONSTRUCTION: error.flatten(1).sum(1), KL: kl.sum(1)}

    def training_losses(self, images: Tensor, noise: Generator) -> Losses:
        terms = self.elbo_terms(images, noise)
        return {**terms, TOTAL: terms[RECONSTRUCTION] + self.config.beta * terms[KL]}

    def test_losses(self, images: Tensor, noise: Generator) -> Losses:
        return self.training_losses(images, noise)

    def objective(self, losses: Losses) -> Tensor:
        return losses[TOTAL].sum()

    def picture(self, images: Tensor, noise: Generator) -> list[tuple[str, Tensor]]:
        reconstructed = torch.sigmoid(self.decoder(_draw(*self.posterior(images), noise)))
        return [("Real data", images), ("Reconstruction data", reconstructed)]

    def sample(self, count: int, noise: Generator) -> Tensor:
        weight = self.mean.weight
        latents = torch.randn(
            (count, self.config.latent_dim), generator=noise, device=weight.device
        )
        return torch.sigmoid(self.decoder(latents))


def _draw(mean: Tensor, log_variance: Tensor, noise: Generator) -> Tensor:
    """Z ~ q(z|x) by the reparameterisation z = mean + exp(log_variance / 2) * epsilon."""
    return mean + torch.exp(log_variance / 2) * normal_like(mean, noise)
