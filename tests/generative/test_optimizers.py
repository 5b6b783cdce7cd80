"""The optimizers are PyTorch's own, and only spend less around their arithmetic."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import CPU, SAMPLE, compute, config
from torch.optim import Adadelta, Adam, Optimizer, RMSprop

from generative.data.dataset import load_mnist
from generative.models.ae import AE
from generative.models.base import Model
from generative.models.registry import REGISTRY
from generative.rng import generator
from generative.training.loop import initialise
from generative.training.optimizers import make_optimizer
from generative.training.runtime import prepare
from generative.training.step import step


@pytest.mark.parametrize("model_class", REGISTRY.values())
@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [("adam", Adam, {"fused": True}), ("rmsprop", RMSprop, {}), ("adadelta", Adadelta, {})],
)
def test_steps_are_bit_for_bit_those_of_pytorch(
    model_class: type[Model[Any]], name: str, theirs: type[Optimizer], options: dict[str, bool]
) -> None:
    prepare(compute())
    images = load_mnist(SAMPLE, CPU).train.to_float(slice(0, 16))
    settings = config(model_class, optimizer=name, weight_decay=0.01)

    def pytorchs(model: Model[Any]) -> Optimizer:
        arguments: dict[str, Any] = {
            "lr": settings.lr,
            "weight_decay": settings.weight_decay,
            **options,
        }
        return theirs(model.parameters(), **arguments)

    def trained(make: Callable[[Model[Any]], Optimizer]) -> tuple[Any, Any]:
        model = initialise(model_class, settings, 0, CPU)
        noise = generator(CPU, 0, "noise")
        optimizer = make(model)
        for _ in range(3):
            step(model, optimizer, model.training_losses(images, noise))
        resumed = make(model)
        resumed.load_state_dict(optimizer.state_dict())
        for _ in range(3):
            step(model, resumed, model.training_losses(images, noise))
        return model.state_dict(), resumed.state_dict()["state"]

    (weights, state), (their_weights, their_state) = trained(make_optimizer), trained(pytorchs)
    assert weights.keys() == their_weights.keys()
    for key, value in weights.items():
        assert torch.equal(value, their_weights[key]), key
    assert state.keys() == their_state.keys()
    for number, values in state.items():
        assert values.keys() == their_state[number].keys()
        for key, value in values.items():
            assert torch.equal(value, their_state[number][key]), (number, key)


def test_a_parameter_without_a_gradient_is_left_until_it_has_one() -> None:
    model = initialise(AE, config(AE), 0, CPU)
    late = next(model.parameters())
    images = load_mnist(SAMPLE, CPU).train.to_float(slice(0, 16))
    optimizer, before, changed = make_optimizer(model), late.detach().clone(), []
    for wanted in (True, False, False, True):
        late.requires_grad_(wanted)
        step(model, optimizer, model.training_losses(images, generator(CPU, 0, "noise")))
        changed.append(not torch.equal(late, before))
        before = late.detach().clone()
    assert changed == [True, False, False, True]
