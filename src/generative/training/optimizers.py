"""The optimizers that params.yaml names, without what PyTorch does around their arithmetic."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adadelta, Adam, Optimizer, RMSprop

from generative.models.base import Model, Update


def make_optimizers(model: Model[Any]) -> list[Optimizer]:
    """The optimizer of each of a model's updates."""
    return [_optimizer(update) for update in model.updates()]


def _optimizer(update: Update) -> Optimizer:
    """The one that an update names; weight decay is the L2 penalty in all three."""
    settings: dict[str, Any] = {}
    if update.optimizer == "adam":
        settings = {"fused": True, "betas": (update.beta1, 0.999)}
    kinds = {"adam": _FusedAdam, "rmsprop": RMSprop, "adadelta": Adadelta}
    return _lean(kinds[update.optimizer])(
        update.parameters,
        lr=update.lr,
        weight_decay=update.weight_decay,
        capturable=update.parameters[0].is_cuda,  # by a CUDA graph
        **settings,
    )


class _FusedAdam(Adam):
    """PyTorch's Adam, which calls its fused kernel directly where it can.

    That is where every parameter has a gradient, and all gradients are of one dtype. `Adam.step`
    sorts the tensors anew at every step, for longer than the kernel needs for a small model, and
    counts steps for each parameter apart, where one count is enough.
    """

    _gathered_from: object = None

    def step(self) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        gradients = [parameter.grad for parameter in group["params"]]
        kinds = {None if gradient is None else gradient.dtype for gradient in gradients}
        if None in kinds or len(kinds) > 1:
            for state in self.state.values():
                state["step"] = state["step"].clone()
            super().step()
            self._gathered_from = None
            return
        if self._gathered_from is not self.state:  # at the first step, and once it was loaded
            self._gather(group)
            self._gathered_from = self.state
        parameters, _, averages, squares, _, steps = self._gathered
        torch._foreach_add_(self._counts, 1)
        torch._fused_adam_(
            parameters,
            gradients,
            averages,
            squares,
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def _gather(self, group: dict[str, Any]) -> None:
        self._gathered: tuple[list[Tensor], ...] = ([], [], [], [], [], [])
        self._init_group(group, *self._gathered)  # type: ignore[no-untyped-call]
        steps = self._gathered[-1]
        if all(torch.equal(step, steps[0]) for step in steps):
            steps[:] = [steps[0]] * len(steps)
            for state in self.state.values():
                state["step"] = steps[0]
        self._counts = [*{id(step): step for step in steps}.values()]


def _lean(kind: type[Optimizer]) -> Callable[..., Optimizer]:
    """An optimizer less the guards against being compiled: importing them takes a second.

    One of them also kept `step` from recording gradients; here its caller does.
    """
    guarded = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in guarded}
    return type(kind.__name__, (kind,), bare)
