"""The optimizers are PyTorch's own, and only spend less around their arithmetic."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Adadelta, Adam, Optimizer, RMSprop

from generative.core.compute import generator
from generative.core.images import ImageSet
from generative.core.loop import initialise, make_optimizers, step
from generative.core.model import Model
from generative.models.ae import AE
from generative.models.gan import GAN
from generative.models.vae import VAE
from models import CPU, config


@pytest.mark.parametrize(
    ("model_class", "name", "theirs"),
    [
        (GAN, "adam", Adam),
        (VAE, "adam", Adam),
        (VAE, "adadelta", Adadelta),
        (AE, "rmsprop", RMSprop),
    ],
)
def test_steps_are_bit_for_bit_those_of_pytorch(
    model_class: type[Model[Any]], name: str, theirs: type[Optimizer], data: ImageSet
) -> None:
    images = data.train.to_float(slice(0, 16))
    settings = config(model_class, optimizer=name, lr=0.003, weight_decay=0.01)
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if name == "adam":
        options |= {"fused": True, "betas": (getattr(settings, "beta1", 0.9), 0.999)}

    def pytorchs(model: Model[Any]) -> list[Optimizer]:
        return [theirs(update.parameters, **options) for update in model.updates()]

    def trained(make: Callable[[Model[Any]], list[Optimizer]]) -> tuple[Any, Any]:
        model = initialise(model_class, settings, 0, CPU)
        noise = generator(CPU, 0, "noise")
        optimizers = make(model)
        take(model, optimizers, images, noise)
        resumed = make(model)
        for one, other in zip(resumed, optimizers, strict=True):
            one.load_state_dict(other.state_dict())
        take(model, resumed, images, noise)
        return model.state_dict(), [one.state_dict()["state"] for one in resumed]

    (weights, states), (their_weights, their_states) = trained(make_optimizers), trained(pytorchs)
    assert weights.keys() == their_weights.keys()
    for key, value in weights.items():
        assert torch.equal(value, their_weights[key]), key
    for state, their_state in zip(states, their_states, strict=True):
        assert state.keys() == their_state.keys()
        for number, values in state.items():
            assert values.keys() == their_state[number].keys()
            for key, value in values.items():
                assert torch.equal(value, their_state[number][key]), (number, key)


def take(
    model: Model[Any],
    optimizers: list[Optimizer],
    images: torch.Tensor,
    noise: torch.Generator,
) -> None:
    """Take all of a model's updates, three times."""
    for _ in range(3):
        for update, optimizer in zip(model.updates(), optimizers, strict=True):
            step(update, optimizer, update.losses(images, noise))
