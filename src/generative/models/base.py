"""What a model owes the rest of the pipeline."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from generative.params import Section

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
    picture_title: ClassVar[str]
    picture_size: ClassVar[int]
    """How many test images the picture of an epoch shows."""

    def __init__(self, config: C) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def training_losses(self, images: Tensor, noise: Generator) -> Losses:
        """The loss of each example as it is trained on."""

    @abstractmethod
    def test_losses(self, images: Tensor, noise: Generator) -> Losses:
        """The loss of each example as it is reported on the test set."""

    @abstractmethod
    def objective(self, losses: Losses) -> Tensor:
        """The scalar whose gradient is followed: the chapter's reduction over the batch."""

    @abstractmethod
    def reconstruct(self, images: Tensor) -> Tensor:
        """Logits of the reconstruction, (B, 1, 28, 28); without randomness."""

    @abstractmethod
    def picture(self, images: Tensor, noise: Generator) -> list[tuple[str, Tensor]]:
        """The rows of an epoch's picture: a title and `picture_size` images in [0, 1] each."""


class LatentVariableModel(Model[C], ABC):
    """A model with a prior p(z) and an approximate posterior q(z|x)."""

    @abstractmethod
    def elbo_terms(self, images: Tensor, noise: Generator) -> Losses:
        """`RECONSTRUCTION`, -log p(x|z) with z ~ q(z|x), and `KL`, in nats an image.

        ELBO = -(reconstruction + KL), whatever weight training gives the terms.
        Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), equation 3.
        """

    @abstractmethod
    def sample(self, count: int, noise: Generator) -> Tensor:
        """`count` images drawn from the prior: pixel means, (count, 1, 28, 28)."""


def normal_like(tensor: Tensor, noise: Generator) -> Tensor:
    """Standard normal noise of a tensor's shape, on its device, from `noise`."""
    return torch.randn(tensor.shape, generator=noise, device=tensor.device)


def add_noise(images: Tensor, factor: float, noise: Generator) -> Tensor:
    """Images plus Gaussian noise of standard deviation `factor`, clipped to [0, 1]."""
    return (images + factor * normal_like(images, noise)).clamp(0, 1)
