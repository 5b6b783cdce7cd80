"""What a training changes, as named arrays and back, and which epoch's weights it keeps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from generative.core.model import LAST, Model

History = list[dict[str, int | float]]
"""Each epoch's losses, and its number as `epoch`."""

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class TrainingState:
    """A training between two epochs: a model, its optimizers and the losses so far.

    And the weights of the epoch with the lowest `keep`, unless that is `last`.
    """

    def __init__(
        self, model: Model[Any], optimizers: Sequence[Optimizer], keep: str = LAST
    ) -> None:
        self.history: History = []
        self._model = model
        self._keep = keep
        self._kept: dict[str, torch.Tensor] = {}
        self._optimizers = {
            update.name: optimizer
            for update, optimizer in zip(model.updates(), optimizers, strict=True)
        }

    def add(self, epoch: int, means: Mapping[str, float]) -> None:
        """Take in an epoch that the model has just ended."""
        self.history.append({"epoch": epoch, **means})
        if self._keep != LAST and best_epoch(self.history, self._keep) == epoch:
            weights = self._model.state_dict()
            self._kept = {name: value.clone() for name, value in weights.items()}

    def take_kept(self) -> int:
        """Give the model the weights of the epoch that is kept; that epoch."""
        if self._kept:
            self._model.load_state_dict(self._kept)
        return best_epoch(self.history, self._keep)

    def state_dict(self) -> Arrays:
        """All of it; names begin with `model/`, `kept/`, `optimizer/` or `history/`."""
        tensors = {f"model/{name}": value for name, value in self._model.state_dict().items()}
        tensors |= {f"kept/{name}": value for name, value in self._kept.items()}
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
        self._kept = {}
        states: dict[str, dict[int, dict[str, torch.Tensor]]] = {
            update: {} for update in self._optimizers
        }
        columns: dict[str, list[int | float]] = {}
        for key, array in sorted(arrays.items()):
            kind, _, name = key.partition("/")
            if kind == "model":
                weights[name] = torch.tensor(array)
            elif kind == "kept":
                self._kept[name] = torch.tensor(array)
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


def best_epoch(history: History, keep: str) -> int:
    """The epoch with the lowest `keep`, of equal ones the first; the last one for `last`."""
    if keep == LAST:
        return int(history[-1]["epoch"])
    return int(min(history, key=lambda row: row[keep])["epoch"])


def is_over(history: History, keep: str, patience: int) -> bool:
    """Did `patience` epochs in a row bring no lower `keep`? Never, where it is 0."""
    return 0 < patience <= int(history[-1]["epoch"]) - best_epoch(history, keep)
