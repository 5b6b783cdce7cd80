"""Every model of the pipeline, by its name."""

from typing import Any

from generative.core.model import Model
from generative.models.ae import AE
from generative.models.gan import GAN
from generative.models.vae import VAE

REGISTRY: dict[str, type[Model[Any]]] = {model.name: model for model in (AE, VAE, GAN)}
