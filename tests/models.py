"""Untrained models of the experiment."""

from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from generative.core.compute import Compute
    from generative.core.model import Model, ModelConfig
    from generative.evaluation import EvaluationConfig
    from generative.models.ae import AE
    from generative.models.gan import GAN
    from generative.models.vae import VAE


CPU = torch.device("cpu")
no_cuda = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason="this machine has a CUDA device; hide it with CUDA_VISIBLE_DEVICES=",
)
_COMMON: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 10,
    "lr": 0.001,
    "weight_decay": 0.0,
    "optimizer": "adam",
}


def ae(latent_dim: int = 4, **changes: Any) -> "AE":
    """An untrained autoencoder."""
    from generative.models.ae import AE, AEConfig

    own = {"latent_dim": latent_dim, "loss": "mse", "noise_factor": 0.3, "target": "noisy"}
    return AE(AEConfig(**(_COMMON | own | changes)))


def vae(latent_dim: int = 200, **changes: Any) -> "VAE":
    """An untrained variational autoencoder."""
    from generative.models.vae import VAE, VAEConfig

    own = {"latent_dim": latent_dim, "hidden_dim": 400, "beta": 1.0}
    return VAE(VAEConfig(**(_COMMON | own | changes)))


def gan(latent_dim: int = 8, **changes: Any) -> "GAN":
    """An untrained generative adversarial network."""
    from generative.models.gan import GAN, GANConfig

    own = {"latent_dim": latent_dim, "hidden_dim": 32, "beta1": 0.5, "instance_noise": 1.0}
    return GAN(GANConfig(**(_COMMON | own | changes)))


def noise(purpose: str = "noise") -> torch.Generator:
    """A random stream on the CPU, the same for the same purpose."""
    from generative.core.compute import generator

    return generator(CPU, 0, purpose)


def compute(**changes: Any) -> "Compute":
    """The `compute` block for one thread of a CPU."""
    from generative.core.compute import Compute

    defaults: dict[str, Any] = {
        "device": "cpu",
        "threads": 1,
        "precision": "float32",
        "deterministic": True,
    }
    return Compute(**(defaults | changes))


def config(model_class: "type[Model[Any]]", **changes: Any) -> "ModelConfig":
    """A model's config for a short training on the sample."""
    models: list[Model[Any]] = [ae(), vae(8, hidden_dim=32), gan()]
    base: ModelConfig = next(one.config for one in models if isinstance(one, model_class))
    return base.model_copy(update={"epochs": 2, "batch_size": 100} | changes)


def evaluation(**changes: Any) -> "EvaluationConfig":
    """The `evaluate` block for a short evaluation on the sample."""
    from generative.evaluation import EvaluationConfig

    sizes: dict[str, Any] = {
        "batch_size": 50,
        "noise_factors": [0.0, 0.3],
        "noise_seeds": 4,
        "importance_samples": 100,
        "importance_images": 20,
        "probe_images": 100,
        "compared_samples": 100,
        "pictured_images": 4,
        "samples": 8,
        "projected_images": 50,
    }
    return EvaluationConfig(**(sizes | changes))
