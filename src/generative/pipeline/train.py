"""A training stage: params and data in; model, metrics and a tracked run out."""

import csv
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from generative.checks import check_choice, check_portable
from generative.core.compute import Compute, prepare
from generative.core.config import Params
from generative.core.images import load_data
from generative.core.io import to_bytes
from generative.core.loop import fit, initialise, make_optimizers
from generative.core.model import LAST, Model, ModelConfig
from generative.core.state import History, TrainingState, is_over
from generative.errors import UserError
from generative.pipeline.stage import epochs_shown, history_path, metrics_path, model_path, tracked
from generative.plots.image_grids import image_rows, png
from runrecord.files import write_atomic


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
    if config.batch_size > len(data.train):
        raise UserError(
            f"params.yaml: {name}.batch_size is {config.batch_size}, more than the "
            f"{len(data.train)} training images; make it {len(data.train)} or less."
        )
    model = initialise(model_class, config, seed, device, data.shape)
    optimizers = make_optimizers(model)
    shown = {"model": name, **config.model_dump()}
    state = TrainingState(model, optimizers, config.keep)
    with (
        _removed_on_failure(name),
        tracked(f"train-{name}", params, compute, device, data.digest, shown) as run,
        epochs_shown(name, config.epochs) as show,
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
            print(_choice(config, state.history, kept, name))
        path = model_path(name)
        write_atomic(path, to_bytes(model))
        _write_losses(name, state.history, kept)
        run.model(path, step=kept)


def _choice(config: ModelConfig, history: History, kept: int, name: str) -> str:
    """For a person: the epoch that is kept, and why training ended early where it did."""
    lowest, ended, total = history[kept - 1][config.keep], len(history), config.epochs
    line = f"{name}: epoch {kept} is kept, with the lowest {config.keep}, {lowest:.4f}"
    if ended == total:
        return line
    return f"{line}; training ended after epoch {ended} of {total}: patience is {config.patience}"


def _write_losses(name: str, history: History, epoch: int) -> None:
    """What `dvc exp show` and `dvc plots` follow: every epoch's losses, and those of `epoch`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomic(history_path(name), text.getvalue().encode())
    write_atomic(metrics_path(name), (json.dumps(history[epoch - 1], indent=2) + "\n").encode())


@contextmanager
def _removed_on_failure(name: str) -> Iterator[None]:
    """Nobody takes the losses of a training that ends badly for its results."""
    try:
        yield
    except BaseException:
        for path in (history_path(name), metrics_path(name)):
            path.unlink(missing_ok=True)
        raise
