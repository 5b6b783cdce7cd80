"""A training stage: params and data in; model, metrics and a tracked run out."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from generative.config import Params
from generative.errors import UserError
from generative.files import sha256, write_atomic
from generative.models.base import Model
from generative.models.io import save_model
from generative.pipeline.context import StageContext, prepare_stage
from generative.pipeline.paths import history_path, metrics_path, model_path, record_path
from generative.pipeline.progress import epochs
from generative.plots.image_grids import image_rows, png
from generative.training.loop import fit, initialise
from generative.training.optimizers import make_optimizer
from generative.training.state import History, pack_state, read_state
from runrecord.checkpoints import Checkpoints
from runrecord.events import EpochEnded, ModelSaved, Resumed
from runrecord.run import now, start_run


def train(model_class: type[Model[Any]]) -> None:
    """Train a model as its block of params.yaml says, and write what its stage owes.

    Raises:
        UserError: before any work, for bad input.
        RunFailed: a loss is no longer finite.
        OSError: a file cannot be written.
    """
    name = model_class.name
    params = Params()
    context = prepare_stage(f"train-{name}", params)
    config = params.section(name, model_class.config_class)
    seed, compute, device, data = context.seed, context.compute, context.device, context.data
    if config.batch_size > len(data.train):
        raise UserError(
            f"params.yaml: {name}.batch_size is {config.batch_size}, more than the "
            f"{len(data.train)} training images; make it {len(data.train)} or less."
        )
    model = initialise(model_class, config, seed, device)
    optimizer = make_optimizer(model)
    shown = {"model": name, "seed": seed, **compute.model_dump(), **config.model_dump()}
    checkpoints = Checkpoints(context.root, _identity(context, shown))
    stopped = checkpoints.latest(read_state)

    where = f"{device.type} ({context.origin.tags['device.name']})"
    print(f"{context.stage}: {compute.threads} threads, {where}")

    with (
        start_run(
            context.root,
            context.stage,
            record_path(name),
            shown,
            context.dataset,
            context.origin,
            stopped=stopped.run_id if stopped else None,
            finished=checkpoints.remove,
        ) as tracker,
        epochs(name, config.epochs) as show,
    ):
        history: History = []
        recorded = 0
        if stopped and stopped.run_id == tracker.run_id:
            stopped.state.restore(model, optimizer)
            history = stopped.state.history
            recorded = tracker.last_epoch()
            tracker.log(Resumed(now(), stopped.epoch))
            print(f"going on with {tracker.run_id} after epoch {stopped.epoch}")
        for result in fit(model, optimizer, data, seed, compute, device, len(history)):
            if result.epoch > recorded:
                rows = [(title, images.float().cpu().numpy()) for title, images in result.preview]
                preview = {model.preview_title: png(image_rows(rows))}
                tracker.log(EpochEnded(now(), result.epoch, result.steps, result.means, preview))
            history.append({"epoch": result.epoch, **result.means})
            state = pack_state(history, model, optimizer)
            checkpoints.save(tracker.run_id, result.epoch, state)
            show(result.epoch, result.means)
        path = model_path(name)
        save_model(model, path)
        write_atomic(history_path(name), _csv(history))
        write_atomic(metrics_path(name), (json.dumps(history[-1], indent=2) + "\n").encode())
        saved = ModelSaved(now(), name, path.resolve(), path.name, sha256(path), config.epochs)
        tracker.log(saved)


def _identity(context: StageContext, params: Mapping[str, object]) -> dict[str, object]:
    """All that a training's result depends on."""
    tags = context.origin.tags
    device = "device.name" if context.device.type == "cuda" else "cpu.capability"
    return {
        "stage": context.stage,
        "params": dict(params),
        "deps": context.origin.deps,
        "device": [context.device.type, tags.get(device)],
        "torch": tags["torch"],
        "variables": {name: value for name, value in tags.items() if name.startswith("env.")},
    }


def _csv(rows: History) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
