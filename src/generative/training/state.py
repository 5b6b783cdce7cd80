"""What a training goes on from: weights, optimizer and history, as bytes and back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from generative.models.base import Model

History = list[dict[str, int | float]]
"""Each epoch's losses, and its number as `epoch`."""

_KEY = "generative"


@dataclass(frozen=True)
class TrainingState:
    """A training between two epochs."""

    history: History
    weights: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    """What the optimizer holds for each parameter, by the parameter's number."""

    def restore(self, model: Model[Any], optimizer: Optimizer) -> None:
        """Set both to where they were."""
        model.load_state_dict(self.weights)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": self.optimizer, "param_groups": groups})


def pack_state(history: History, model: Model[Any], optimizer: Optimizer) -> bytes:
    """A training's state as the content of a safetensors file."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": value for name, value in values.items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, metadata={_KEY: json.dumps(history)})


def read_state(path: Path) -> TrainingState:
    """What `pack_state` packed.

    Raises:
        ValueError: the file is damaged.
    """
    weights: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            history = json.loads(file.metadata()[_KEY])
            for name in file.keys():  # noqa: SIM118
                kind, _, rest = name.partition("/")
                if kind == "model":
                    weights[rest] = file.get_tensor(name)
                else:
                    number, _, key = rest.partition("/")
                    state.setdefault(int(number), {})[key] = file.get_tensor(name)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged") from error
    return TrainingState(history, weights, state)
