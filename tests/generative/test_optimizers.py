"""The optimizers are PyTorch's own, and only spend less around their arithmetic."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adadelta, Adam, Optimizer, RMSprop
from workspaces import SAMPLE

from generative.core.compute import generator, prepare
from generative.core.images import load_images
from generative.core.loop import initialise, make_optimizers, step
from generative.core.model import Model, Update
from generative.models.ae import AE
from generative.models.registry import REGISTRY
from models import CPU, compute, config


@pytest.mark.parametrize("model_class", REGISTRY.values())
@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [("adam", Adam, {"fused": True}), ("rmsprop", RMSprop, {}), ("adadelta", Adadelta, {})],
)
def test_steps_are_bit_for_bit_those_of_pytorch(
    model_class: type[Model[Any]], name: str, theirs: type[Optimizer], options: dict[str, Any]
) -> None:
    prepare(compute())
    images = load_images(SAMPLE, CPU).train.to_float(slice(0, 16))
    settings = config(model_class, optimizer=name, lr=0.003, weight_decay=0.01)
    if name == "adam":
        options = options | {"betas": (getattr(settings, "beta1", 0.9), 0.999)}
    options = options | {"lr": settings.lr, "weight_decay": settings.weight_decay}

    def pytorchs(model: Model[Any]) -> list[Optimizer]:
        return [theirs(update.parameters, **options) for update in model.updates()]

    def trained(make: Callable[[Model[Any]], list[Optimizer]]) -> tuple[Any, Any]:
        model = initialise(model_class, settings, 0, CPU)
        noise = generator(CPU, 0, "noise")
        optimizers = make(model)
        take(model, optimizers, images, noise, times=3)
        resumed = make(model)
        for one, other in zip(resumed, optimizers, strict=True):
            one.load_state_dict(other.state_dict())
        take(model, resumed, images, noise, times=3)
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
    times: int,
) -> None:
    """Take all of a model's updates, several times."""
    for _ in range(times):
        for update, optimizer in zip(model.updates(), optimizers, strict=True):
            step(update, optimizer, update.losses(images, noise))


def test_a_parameter_without_a_gradient_is_left_until_it_has_one() -> None:
    model = initialise(AE, config(AE), 0, CPU)
    late = next(model.parameters())
    images = load_images(SAMPLE, CPU).train.to_float(slice(0, 16))
    optimizers, before, changed = make_optimizers(model), late.detach().clone(), []
    for wanted in (True, False, False, True):
        late.requires_grad_(wanted)
        take(model, optimizers, images, generator(CPU, 0, "noise"), times=1)
        changed.append(not torch.equal(late, before))
        before = late.detach().clone()
    assert changed == [True, False, False, True]


def unused(*_: object) -> Any:
    raise AssertionError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_some_parameters_miss_or_have_otherwise_is_followed_as_pytorch_does(
    dtype: torch.dtype,
) -> None:
    def outcome(make: Callable[[list[nn.Parameter]], Optimizer]) -> list[Tensor]:
        parameters = [nn.Parameter(torch.ones(3, dtype=kind)) for kind in (torch.float32, dtype)]
        optimizer = make(parameters)
        for number, is_there in enumerate((True, True, False, True, True), start=1):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, number)
            if not is_there:
                parameters[1].grad = None
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    def our_own(parameters: list[nn.Parameter]) -> Optimizer:
        update = Update("all", parameters, unused, unused, "adam", lr=0.1, weight_decay=0)
        (optimizer,) = make_optimizers(cast(Any, SimpleNamespace(updates=lambda: [update])))
        return optimizer

    ours = outcome(our_own)
    theirs = outcome(lambda parameters: Adam(parameters, lr=0.1, fused=True))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
