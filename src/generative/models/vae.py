"""The chapter's variational autoencoder, listings 13-13 to 13-17: config, network and loss.

Shapes: B batch, D values of an image, N hidden, Z latent. Images are (B, C, H, W) in [0, 1].
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from generative.core.config import Count, NotNegative
from generative.core.model import (
    MNIST_SHAPE,
    RECONSTRUCTION,
    TOTAL,
    Autoencoder,
    HasElbo,
    Losses,
    ModelConfig,
    Samples,
    Shape,
    normal_like,
)

KL = "KL-Divergence"


class VAEConfig(ModelConfig):
    """The `vae` block of params.yaml."""

    hidden_dim: Count
    beta: NotNegative


class VAE(Autoencoder[VAEConfig], HasElbo, Samples):
    """Two hidden layers each way; q(z|x) is a diagonal Gaussian, p(x|z) Bernoulli for each pixel.

    A subclass may replace `encoder` (to N values) and `decoder` (from Z values), and keeps the
    loss.
    """

    name = "vae"
    config_class = VAEConfig
    preview_title = "Test image - Above: Real data, below: reconstruction data"
    preview_size = 8
    losses = (RECONSTRUCTION, KL, TOTAL)
    loss_unit = "Nats an image"

    def __init__(self, config: VAEConfig, shape: Shape = MNIST_SHAPE) -> None:
        super().__init__(config, shape)
        hidden, latent, pixels = config.hidden_dim, config.latent_dim, math.prod(shape)
        self.encoder = nn.Sequential(  # listing 13-13
            nn.Flatten(),  # (B, D)
            nn.Linear(pixels, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),  # (B, N)
        )
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(  # listing 13-14
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
        with torch.autocast(images.device.type, enabled=False):
            features = features.float()
            return self.mean(features), self.log_variance(features)

    def encode(self, images: Tensor) -> Tensor:
        """The mean of q(z|x)."""
        return self.posterior(images)[0]

    def decode(self, latents: Tensor) -> Tensor:
        logits: Tensor = self.decoder(latents)
        return logits

    def reconstruction_error(self, images: Tensor, latents: Tensor) -> Tensor:
        """-log p(x|z): the cross entropy of all pixels."""
        logits = self.decode(latents)
        error = F.binary_cross_entropy_with_logits(logits, images, reduction="none")
        return error.flatten(1).sum(1)

    def elbo_terms(self, images: Tensor, rng: Generator) -> Losses:
        """-log p(x|z) with z ~ q(z|x), and the KL divergence, in nats an image.

        ELBO = -(reconstruction error + KL), whatever weight training gives the terms.
        Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), equation 3.
        """
        mean, log_variance = self.posterior(images)
        error = self.reconstruction_error(images, reparameterize(mean, log_variance, rng))
        return {RECONSTRUCTION: error, KL: gaussian_kl(mean, log_variance).sum(1)}

    def training_losses(self, images: Tensor, rng: Generator) -> Losses:
        """The terms of the ELBO, and their sum with the KL term times `beta` (listing 13-17).

        Source: Higgins et al., "beta-VAE" (2017), equation 4.
        """
        terms = self.elbo_terms(images, rng)
        return {**terms, TOTAL: terms[RECONSTRUCTION] + self.config.beta * terms[KL]}

    def test_losses(self, images: Tensor, rng: Generator) -> Losses:
        return self.training_losses(images, rng)

    def objective(self, losses: Losses) -> Tensor:
        """The sum over the batch."""
        return losses[TOTAL].sum()

    def preview(self, images: Tensor, rng: Generator) -> list[tuple[str, Tensor]]:
        reconstructed = torch.sigmoid(self.decode(reparameterize(*self.posterior(images), rng)))
        return [("Real data", images), ("Reconstruction data", reconstructed)]

    def sample(self, count: int, rng: Generator) -> Tensor:
        """`count` images drawn from the prior."""
        device = next(self.parameters()).device
        latents = torch.randn((count, self.config.latent_dim), generator=rng, device=rng.device)
        return torch.sigmoid(self.decode(latents.to(device)))


def reparameterize(mean: Tensor, log_variance: Tensor, rng: Generator) -> Tensor:
    """Z ~ q(z|x) by the reparameterisation z = mean + exp(log_variance / 2) * epsilon (13-15)."""
    return mean + torch.exp(log_variance / 2) * normal_like(mean, rng)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)) of each dimension, (B, Z), nats.

    Source: Kingma and Welling (2014), appendix B.
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp())
