"""A training stage: params and data in; model, metrics and a tracked run out."""

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from generative.checks import check_batch_size, check_choice, check_portable
from generative.core.compute import Compute, prepare
from generative.core.config import LAST, Params
from generative.core.images import load_data
from generative.core.loop import fit, initialise, make_optimizers
from generative.core.model import Model
from generative.pipeline import stage
from generative.plots.image_grids import image_rows, png
from runrecord.files import write_atomic

History = dict[str, list[float]]
"""Columns: `epoch`, counted from 1, and each loss of these epochs."""

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


def train(model_class: type[Model[Any]]) -> None:
    """Train a model as its block of params.yaml says, and write what its stage owes.

    Raises:
        UserError: before any work, for bad input.
        RunFailed: a loss is no longer finite.
        OSError: a file cannot be written.
    """
    name = model_class.name
    params = Params()
    seed, compute = params.seed(), params.section("compute", Compute)
    device = prepare(compute)
    data = load_data(params, device)
    config = params.section(name, model_class.config_class)
    check_choice(name, config, model_class.losses, len(data.validation or ()))
    check_portable(name, config, compute)
    check_batch_size(name, config, len(data.train))
    model = initialise(model_class, config, seed, device, data.shape)
    optimizers = make_optimizers(model)
    shown = {"model": name, **config.model_dump()}
    state = TrainingState(model, optimizers, config.keep)
    with (
        stage.removed_on_failure(stage.history_path(name), stage.metrics_path(name)),
        stage.tracked(f"train-{name}", params, compute, device, shown) as run,
        stage.epochs_shown(name, config.epochs) as show,
    ):
        numbers = run.epochs(config.epochs, state)
        begun = time.perf_counter()
        for result in fit(model, optimizers, data, seed, compute, device, numbers):
            rows = [(title, images.float().cpu().numpy()) for title, images in result.preview]
            run.log(result.means, within=result.steps)
            run.image(model.preview_title, png(image_rows(rows)))
            state.add(result.epoch, result.means)
            _write_losses(name, state.history, result.epoch)
            ended = time.perf_counter()
            seconds, begun = ended - begun, ended
            show(result.epoch, result.means, seconds)
            run.observe({"images_per_second": len(data.train) / seconds})
            if is_over(state.history, config.keep, config.patience):
                break  # before this epoch's checkpoint: what goes on repeats it, and ends here too
        kept = state.take_kept()
        if config.keep != LAST:
            run.tag(**{"kept.epoch": str(kept)})
            stage.show_choice(name, config, state.history, kept)
        path = stage.model_path(name)
        write_atomic(path, model.to_bytes())
        _write_losses(name, state.history, kept)
        run.model(path, step=kept)


class TrainingState:
    """A training between two epochs: a model, its optimizers and the losses so far.

    And the weights of the epoch with the lowest `keep`, unless that is `last`.
    """

    def __init__(
        self, model: Model[Any], optimizers: Sequence[Optimizer], keep: str = LAST
    ) -> None:
        self.history: History = {}
        self._model, self._keep = model, keep
        self._kept: dict[str, Tensor] = {}
        names = [update.name for update in model.updates()]
        self._optimizers = dict(zip(names, optimizers, strict=True))

    def add(self, epoch: int, means: Mapping[str, float]) -> None:
        """Take in an epoch that the model has just ended."""
        for name, value in {"epoch": epoch, **means}.items():
            self.history.setdefault(name, []).append(value)
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
        parts = {"model": self._model.state_dict(), "kept": self._kept}
        for update, optimizer in self._optimizers.items():
            for number, values in optimizer.state_dict()["state"].items():
                parts[f"optimizer/{update}/{number}"] = values
        arrays = {
            f"{part}/{name}": value.detach().cpu().numpy()
            for part, values in parts.items()
            for name, value in values.items()
        }
        for place, (name, column) in enumerate(self.history.items()):
            arrays[f"history/{place:02}/{name}"] = np.array(column)
        return arrays

    def load_state_dict(self, arrays: Arrays) -> None:
        """Be as `state_dict` had it."""
        self._model.load_state_dict(_part(arrays, "model/"))
        self._kept = _part(arrays, "kept/")
        for update, optimizer in self._optimizers.items():
            groups = optimizer.state_dict()["param_groups"]
            numbers = [number for group in groups for number in group["params"]]
            states = {number: _part(arrays, f"optimizer/{update}/{number}/") for number in numbers}
            optimizer.load_state_dict({"state": states, "param_groups": groups})
        columns = sorted(_part(arrays, "history/").items())
        self.history = {name.partition("/")[2]: column.tolist() for name, column in columns}


def _part(arrays: Arrays, prefix: str) -> dict[str, Tensor]:
    """Those whose name begins with `prefix`, by the rest of it."""
    return {
        name.removeprefix(prefix): torch.tensor(array)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def best_epoch(history: History, keep: str) -> int:
    """The epoch with the lowest `keep`, of equal ones the first; the last one for `last`."""
    if keep == LAST:
        return len(history["epoch"])
    return history[keep].index(min(history[keep])) + 1


def is_over(history: History, keep: str, patience: int) -> bool:
    """Did `patience` epochs in a row bring no lower `keep`? Never, where it is 0."""
    return 0 < patience <= len(history["epoch"]) - best_epoch(history, keep)


def _write_losses(name: str, history: History, epoch: int) -> None:
    """What `dvc exp show` and `dvc plots` follow: every epoch's losses, and those of `epoch`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(history)
    writer.writerows(zip(*history.values(), strict=True))
    write_atomic(stage.history_path(name), text.getvalue().encode())
    metrics = {key: column[epoch - 1] for key, column in history.items()}
    write_atomic(stage.metrics_path(name), (json.dumps(metrics, indent=2) + "\n").encode())
