"""Interface of a model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from generative.config import Section

TOTAL = "Total Loss"
RECONSTRUCTION = "Reconstruction Error"
KL = "KL-Divergence"

Losses = Mapping[str, Tensor]
"""A loss's named terms, each (B,): one value an example. `TOTAL` is what training minimises."""


class ModelConfig(Section):
    """What every model's block of params.yaml holds."""

    epochs: int = Field(ge=1, description="a whole number, 1 or more")
    batch_size: int = Field(ge=1, description="a whole number, 1 or more")
    lr: float = Field(gt=0, description="a number above 0")
    weight_decay: float = Field(ge=0, description="a number, 0 or more")
    optimizer: Literal["adam", "rmsprop", "adadelta"] = Field(
        description="adam, rmsprop or adadelta"
    )
    latent_dim: int = Field(ge=1, description="a whole number, 1 or more")


C = TypeVar("C", bound=ModelConfig)


class Model(nn.Module, ABC, Generic[C]):
    """An autoencoder of MNIST images.

    Shapes: B batch, D pixels (784), H hidden, Z latent. Images are (B, 1, 28, 28) in [0, 1].
    Subclasses are final and keep their config; weights and config travel together.
    """

    name: ClassVar[str]
    """The model's block in params.yaml and the stem of its files."""
    config_class: ClassVar[type[ModelConfig]]
    preview_title: ClassVar[str]
    preview_size: ClassVar[int]
    """How many test images the preview of an epoch shows."""

    def __init__(self, config: C) -> None:
        super().__init__()
        self.config = config

    @property
    @abstractmethod
    def loss_unit(self) -> str:
        """What its total loss is measured in."""

    @abstractmethod
    def training_losses(self, images: Tensor, rng: Generator) -> Losses:
        """The loss of each example as it is trained on."""

    @abstractmethod
    def test_losses(self, images: Tensor, rng: Generator) -> Losses:
        """The loss of each example as it is reported on the test set."""

    @abstractmethod
    def objective(self, losses: Losses) -> Tensor:
        """The scalar whose gradient is followed: the chapter's reduction over the batch."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """The latents of images, (B, Z); without randomness."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Logits of the images that latents, (B, Z), stand for: (B, 1, 28, 28)."""

    def reconstruct(self, images: Tensor) -> Tensor:
        """Logits of the reconstruction, (B, 1, 28, 28); without randomness."""
        return self.decode(self.encode(images))

    @abstractmethod
    def preview(self, images: Tensor, rng: Generator) -> list[tuple[str, Tensor]]:
        """The rows of an epoch's preview: a title and `preview_size` images in [0, 1] each."""


class LatentVariableModel(Model[C], ABC):
    """A model with the prior p(z) = N(0, I) and a diagonal Gaussian q(z|x)."""

    @abstractmethod
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), (B, Z) each."""

    @abstractmethod
    def reconstruction_error(self, images: Tensor, latents: Tensor) -> Tensor:
        """-log p(x|z), (B,), in nats an image; latents are (B, Z)."""

    def encode(self, images: Tensor) -> Tensor:
        """The mean of q(z|x)."""
        return self.posterior(images)[0]

    def elbo_terms(self, images: Tensor, rng: Generator) -> Losses:
        """`RECONSTRUCTION`, -log p(x|z) with z ~ q(z|x), and `KL`, in nats an image.

        ELBO = -(reconstruction + KL), whatever weight training gives the terms.
        Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), equation 3.
        """
        mean, log_variance = self.posterior(images)
        error = self.reconstruction_error(images, reparameterize(mean, log_variance, rng))
        return {RECONSTRUCTION: error, KL: gaussian_kl(mean, log_variance).sum(1)}

    def sample(self, count: int, rng: Generator) -> Tensor:
        """`count` images drawn from the prior: pixel means, (count, 1, 28, 28)."""
        device = next(self.parameters()).device
        latents = torch.randn((count, self.config.latent_dim), generator=rng, device=device)
        return torch.sigmoid(self.decode(latents))


def reparameterize(mean: Tensor, log_variance: Tensor, rng: Generator) -> Tensor:
    """Z ~ q(z|x) by the reparameterisation z = mean + exp(log_variance / 2) * epsilon."""
    return mean + torch.exp(log_variance / 2) * normal_like(mean, rng)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)) of each dimension, (B, Z), nats.

    Source: Kingma and Welling (2014), appendix B.
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp())


def normal_like(tensor: Tensor, rng: Generator) -> Tensor:
    """Standard normal noise of a tensor's shape, on its device, from `rng`."""
    return torch.randn(tensor.shape, generator=rng, device=tensor.device)


def add_noise(images: Tensor, factor: float, rng: Generator) -> Tensor:
    """Images plus Gaussian noise of standard deviation `factor`, clipped to [0, 1]."""
    return torch.normal(images, factor, generator=rng).clamp_(0, 1)
