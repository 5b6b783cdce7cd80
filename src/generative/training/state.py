"""What a training changes, as named arrays and back: weights, optimizer and history."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from generative.models.base import Model

History = list[dict[str, int | float]]
"""Each epoch's losses, and its number as `epoch`."""

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class TrainingState:
    """A training between two epochs: a model, its optimizer and the losses so far."""

    def __init__(self, model: Model[Any], optimizer: Optimizer) -> None:
        self.history: History = []
        self._model, self._optimizer = model, optimizer

    def state_dict(self) -> Arrays:
        """All of it, by names that begin with `model/`, `optimizer/` or `history/`."""
        tensors = {f"model/{name}": value for name, value in self._model.state_dict().items()}
        for number, values in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in values.items()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        names = list(self.history[0]) if self.history else []
        for place, name in enumerate(names):
            arrays[f"history/{place:02}/{name}"] = np.array([row[name] for row in self.history])
        return arrays

    def load_state_dict(self, arrays: Arrays) -> None:
        """Be as `state_dict` had it."""
        weights: dict[str, torch.Tensor] = {}
        state: dict[int, dict[str, torch.Tensor]] = {}
        columns: dict[str, list[int | float]] = {}
        for key, array in sorted(arrays.items()):
            kind, _, name = key.partition("/")
            if kind == "model":
                weights[name] = torch.tensor(array)
            elif kind == "optimizer":
                number, _, name = name.partition("/")
                state.setdefault(int(number), {})[name] = torch.tensor(array)
            else:
                columns[name.partition("/")[2]] = array.tolist()
        rows = zip(*columns.values(), strict=True)
        self.history = [dict(zip(columns, row, strict=True)) for row in rows]
        self._model.load_state_dict(weights)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
