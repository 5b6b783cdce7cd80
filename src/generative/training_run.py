"""A training stage: params and data in; model, metrics and a tracked run out."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from generative.checkpoint import Checkpoints, History
from generative.errors import UserError
from generative.figures.images import image_rows, png
from generative.files import sha256, write_atomic
from generative.models.base import Model
from generative.models.file import save_model
from generative.optimizers import make_optimizer
from generative.outputs import history_path, metrics_path, model_path, record_path
from generative.params import Params
from generative.progress import epochs
from generative.setting import Setting, prepare_setting
from generative.tracking.events import EpochEnded, ModelSaved, Resumed
from generative.tracking.run import now, tracked
from generative.training import fit, initialise


def train(model_class: type[Model[Any]]) -> None:
    """Train a model as its block of params.yaml says, and write what its stage owes.

    Raises:
        UserError: before any work, for bad input.
        RunFailed: a loss is no longer finite.
        OSError: a file cannot be written.
    """
    name = model_class.name
    params = Params()
    setting = prepare_setting(f"train-{name}", params)
    config = params.section(name, model_class.config_class)
    seed, compute, device, data = setting.seed, setting.compute, setting.device, setting.data
    if config.batch_size > len(data.train):
        raise UserError(
            f"params.yaml: {name}.batch_size is {config.batch_size}, more than the "
            f"{len(data.train)} training images; make it {len(data.train)} or less."
        )
    model = initialise(model_class, config, seed, device)
    optimizer = make_optimizer(model)
    shown = {"model": name, "seed": seed, **compute.model_dump(), **config.model_dump()}
    checkpoints = Checkpoints(setting.root, _identity(setting, shown))
    stopped = checkpoints.latest()
    wanted = stopped.run_id if stopped else None

    where = f"{device.type} ({setting.origin.tags['device.name']})"
    print(f"{setting.stage}: {compute.threads} threads, {where}")

    with (
        tracked(
            setting, record_path(name), shown, stopped=wanted, finished=checkpoints.remove
        ) as tracker,
        epochs(name, config.epochs) as show,
    ):
        history: History = []
        recorded = 0
        if stopped and stopped.run_id == tracker.run_id:
            stopped.restore(model, optimizer)
            history = stopped.history
            recorded = tracker.last_epoch()
            tracker.log(Resumed(now(), stopped.epoch))
            print(f"going on with {tracker.run_id} after epoch {stopped.epoch}")
        for result in fit(model, optimizer, data, seed, compute, device, len(history)):
            if result.epoch > recorded:
                rows = [(title, images.float().cpu().numpy()) for title, images in result.picture]
                picture = {model.picture_title: png(image_rows(rows))}
                tracker.log(EpochEnded(now(), result.epoch, result.steps, result.means, picture))
            history.append({"epoch": result.epoch, **result.means})
            if result.epoch % compute.checkpoint_every == 0:
                checkpoints.save(tracker.run_id, result.epoch, history, model, optimizer)
            show(result.epoch, result.means)
        path = model_path(name)
        save_model(model, path)
        write_atomic(history_path(name), _csv(history))
        write_atomic(metrics_path(name), (json.dumps(history[-1], indent=2) + "\n").encode())
        tracker.log(ModelSaved(now(), name, path.resolve(), sha256(path), config.epochs))


def _identity(setting: Setting, params: Mapping[str, object]) -> dict[str, object]:
    """All that a training's result depends on."""
    tags = setting.origin.tags
    device = "device.name" if setting.device.type == "cuda" else "cpu.capability"
    return {
        "stage": setting.stage,
        "params": dict(params),
        "deps": setting.origin.deps,
        "device": [setting.device.type, tags.get(device)],
        "torch": tags["torch"],
        "variables": {name: value for name, value in tags.items() if name.startswith("env.")},
    }


def _csv(rows: History) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
