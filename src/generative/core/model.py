"""What training asks of a model, and what else a model may be able to do.

Shapes: B batch, C channels, H height, W width, Z latent. Images are (B, C, H, W) in [0, 1].
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import Field
from safetensors.torch import save
from torch import Generator, Tensor, nn

from generative.core.config import LAST, Count, NotNegative, Section

TOTAL = "Total Loss"
RECONSTRUCTION = "Reconstruction Error"

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""
MNIST_SHAPE: Shape = (1, 28, 28)

HEADER = "generative"
"""The one key of a model file's metadata: safetensors writes several in no fixed order."""

Losses = Mapping[str, Tensor]
"""A loss's named terms, each (B,): one value an example."""


class ModelConfig(Section):
    """What every model's block of params.yaml holds.

    `keep` and `patience` have defaults, as model files from before they were do without them.
    """

    epochs: Count
    batch_size: Count
    lr: float = Field(gt=0, description="a number above 0")
    weight_decay: NotNegative
    optimizer: Literal["adam", "rmsprop", "adadelta"] = Field(
        description="adam, rmsprop or adadelta"
    )
    latent_dim: Count
    keep: str = Field(
        default=LAST, description="last, or a Train/ or Validation/ loss: its lowest epoch is kept"
    )
    patience: int = Field(default=0, ge=0, description="a whole number, 0 or more")


@dataclass(frozen=True)
class Update:
    """Parameters that follow the gradient of an objective of their own; training holds the rest."""

    name: str
    parameters: Sequence[nn.Parameter]
    losses: Callable[[Tensor, Generator], Losses]
    """From images and a source of noise."""
    objective: Callable[[Losses], Tensor]
    """The scalar whose gradient is followed."""
    optimizer: str
    lr: float
    weight_decay: float
    beta1: float = 0.9
    """Adam's: how slowly its mean of gradients forgets."""


C = TypeVar("C", bound=ModelConfig)


class Model(nn.Module, ABC, Generic[C]):
    """A generative model of images; what it can do besides being trained, its other bases say."""

    name: ClassVar[str]
    """The model's block in params.yaml and the stem of its files."""
    config_class: ClassVar[type[ModelConfig]]
    preview_title: ClassVar[str]
    preview_size: ClassVar[int]
    """How many test images the preview of an epoch is given."""
    losses: ClassVar[tuple[str, ...]] = (TOTAL,)
    """Those whose lowest value can choose the epoch that is kept."""
    drawn_losses: ClassVar[tuple[str, ...]] = (TOTAL,)
    """Those that a picture of its learning shows."""

    def __init__(self, config: C, shape: Shape = MNIST_SHAPE) -> None:
        super().__init__()
        self.config = config
        self.shape = shape

    def to_bytes(self) -> bytes:
        """The content of its file, safetensors: equal weights and config give equal bytes."""
        weights = {name: value.cpu().contiguous() for name, value in self.state_dict().items()}
        config = self.config.model_dump(exclude_defaults=True)  # as files from before these keys
        header: dict[str, object] = {"model": self.name, "config": config}
        if self.shape != MNIST_SHAPE:  # files from before there were other images say none
            header["shape"] = self.shape
        return save(weights, metadata={HEADER: json.dumps(header, sort_keys=True)})

    @property
    @abstractmethod
    def loss_unit(self) -> str:
        """What its losses are measured in."""

    @abstractmethod
    def updates(self) -> Sequence[Update]:
        """What a step of training takes, in order; the losses of all have different names."""

    @abstractmethod
    def test_losses(self, images: Tensor, rng: Generator) -> Losses:
        """The losses of each example as they are reported on the test set, named as in training."""

    @abstractmethod
    def preview(self, images: Tensor, rng: Generator) -> list[tuple[str, Tensor]]:
        """The rows of an epoch's preview: a title and as many images in [0, 1] each."""


class Encodes(ABC):
    """A model that has latents for an image."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """The latents of images, (B, Z); without randomness."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Logits of the images that latents, (B, Z), stand for: (B, C, H, W)."""


class Reconstructs(ABC):
    """A model that gives images back, and cleans noisy ones."""

    @abstractmethod
    def reconstruct(self, images: Tensor) -> Tensor:
        """Logits of the reconstruction, (B, C, H, W); without randomness."""


class HasElbo(ABC):
    """A model with the prior p(z) = N(0, I), a diagonal Gaussian q(z|x) and a likelihood p(x|z)."""

    @abstractmethod
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), (B, Z) each."""

    @abstractmethod
    def reconstruction_error(self, images: Tensor, latents: Tensor) -> Tensor:
        """-log p(x|z), (B,), in nats an image; latents are (B, Z)."""


class Samples(ABC):
    """A model that draws images of its own."""

    @abstractmethod
    def sample(self, count: int, rng: Generator) -> Tensor:
        """`count` images, pixel means in [0, 1]: (count, C, H, W)."""


class Autoencoder(Model[C], Encodes, Reconstructs, ABC):
    """A model that gives images back from their latents, trained by one objective."""

    @abstractmethod
    def training_losses(self, images: Tensor, rng: Generator) -> Losses:
        """The loss of each example as it is trained on."""

    @abstractmethod
    def objective(self, losses: Losses) -> Tensor:
        """The scalar whose gradient is followed: the chapter's reduction over the batch."""

    def updates(self) -> Sequence[Update]:
        """One, of all parameters."""
        settings = self.config.optimizer, self.config.lr, self.config.weight_decay
        parameters = [*self.parameters()]
        return [Update("all", parameters, self.training_losses, self.objective, *settings)]

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


def normal_like(tensor: Tensor, rng: Generator) -> Tensor:
    """Standard normal noise of a tensor's shape, on its device, from `rng`."""
    return torch.randn(tensor.shape, generator=rng, device=rng.device).to(tensor.device)


def add_noise(images: Tensor, factor: float, rng: Generator) -> Tensor:
    """Images plus Gaussian noise of standard deviation `factor`, clipped to [0, 1]."""
    return torch.normal(images.to(rng.device), factor, generator=rng).clamp_(0, 1).to(images.device)
