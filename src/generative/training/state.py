"""What a training changes, as named arrays and back: weights, optimizers and history."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from generative.models.base import Model

History = list[dict[str, int | float]]
"""Each epoch's losses, and its number as `epoch`."""

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class TrainingState:
    """A training between two epochs: a model, its optimizers and the losses so far."""

    def __init__(self, model: Model[Any], optimizers: Sequence[Optimizer]) -> None:
        self.history: History = []
        self._model = model
        self._optimizers = {
            update.name: optimizer
            for update, optimizer in zip(model.updates(), optimizers, strict=True)
        }

    def state_dict(self) -> Arrays:
        """All of it, by names that begin with `model/`, `optimizer/` or `history/`."""
        tensors = {f"model/{name}": value for name, value in self._model.state_dict().items()}
        for update, optimizer in self._optimizers.items():
            for number, values in optimizer.state_dict()["state"].items():
                place = f"optimizer/{update}/{number}"
                tensors |= {f"{place}/{name}": value for name, value in values.items()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        names = list(self.history[0]) if self.history else []
        for column, name in enumerate(names):
            arrays[f"history/{column:02}/{name}"] = np.array([row[name] for row in self.history])
        return arrays

    def load_state_dict(self, arrays: Arrays) -> None:
        """Be as `state_dict` had it."""
        weights: dict[str, torch.Tensor] = {}
        states: dict[str, dict[int, dict[str, torch.Tensor]]] = {
            update: {} for update in self._optimizers
        }
        columns: dict[str, list[int | float]] = {}
        for key, array in sorted(arrays.items()):
            kind, _, name = key.partition("/")
            if kind == "model":
                weights[name] = torch.tensor(array)
            elif kind == "optimizer":
                update, place, name = name.split("/")
                states[update].setdefault(int(place), {})[name] = torch.tensor(array)
            else:
                columns[name.partition("/")[2]] = array.tolist()
        rows = zip(*columns.values(), strict=True)
        self.history = [dict(zip(columns, row, strict=True)) for row in rows]
        self._model.load_state_dict(weights)
        for update, optimizer in self._optimizers.items():
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states[update], "param_groups": groups})
