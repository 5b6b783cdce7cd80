"""The chapter's variational autoencoder: config and network; its losses are base.py's."""

import math
from typing import final

from pydantic import Field
from torch import Tensor, nn

from generative.models.base import (
    MNIST_SHAPE,
    LatentVariableConfig,
    LatentVariableModel,
    Shape,
)
from generative.models.layers.linear_cpu import Linear


class VAEConfig(LatentVariableConfig):
    """The `vae` block of params.yaml."""

    hidden_dim: int = Field(ge=1, description="a whole number, 1 or more")


@final
class VAE(LatentVariableModel[VAEConfig]):
    """Two hidden layers each way; q(z|x) is a diagonal Gaussian, p(x|z) Bernoulli a pixel."""

    name = "vae"
    config_class = VAEConfig

    def __init__(self, config: VAEConfig, shape: Shape = MNIST_SHAPE) -> None:
        super().__init__(config, shape)
        hidden, latent, pixels = config.hidden_dim, config.latent_dim, math.prod(shape)
        self.encoder = nn.Sequential(
            nn.Flatten(),  # (B, D)
            Linear(pixels, hidden),
            nn.LeakyReLU(0.2),
            Linear(hidden, hidden),
            nn.LeakyReLU(0.2),  # (B, N)
        )
        self.mean = Linear(hidden, latent)
        self.log_variance = Linear(hidden, latent)
        self.decoder = nn.Sequential(
            Linear(latent, hidden),
            nn.LeakyReLU(0.2),
            Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            Linear(hidden, pixels),
            nn.Unflatten(1, shape),
        )

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(images)
        # In float32 also under autocast: the KL would lose its digits in bfloat16.
        return self.mean(features).float(), self.log_variance(features).float()

    def decode(self, latents: Tensor) -> Tensor:
        logits: Tensor = self.decoder(latents)
        return logits
