"""The evaluation stage: trained models and test images in; metrics, plots, a tracked run out."""

import csv
import io
import json
import math
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from threadpoolctl import threadpool_limits

from generative.core.compute import CPU, Compute, generator, prepare, use_tf32
from generative.core.config import PIPELINE_FILE, Data, Params
from generative.core.fast_cpu import use_fast_layers
from generative.core.images import Split, load_data
from generative.core.model import Reconstructs
from generative.errors import UserError, read_yaml
from generative.evaluation import JUDGES, SEED, EvaluationConfig, random_subset
from generative.evaluation.classifier import train_classifier
from generative.evaluation.explorer import NO_PAGE, explorer_page
from generative.evaluation.model_pictures import class_pictures, pictures_of
from generative.evaluation.probes import baseline_metrics, has_classes
from generative.evaluation.reconstruction import check_logits
from generative.evaluation.samples import real_images
from generative.evaluation.suite import Evaluated, evaluate
from generative.models.registry import REGISTRY, load_model
from generative.pipeline import stage
from generative.plots.charts import loss_curves
from generative.plots.image_grids import png
from runrecord import Embedding
from runrecord.files import write_atomic

_THUMBNAIL = 64  # pixels at most, a side


def evaluate_all() -> None:
    """Evaluate each model that dvc.yaml trains on the test images, and write what the stage owes.

    Raises:
        UserError: before any work, for bad input.
        OSError: a file cannot be written.
    """
    params = Params()
    seed, compute = SEED, params.section("compute", Compute)
    device = prepare(compute)
    use_tf32(False)  # coarser arithmetic is for training alone
    data = load_data(params, device)
    config = params.section("evaluate", EvaluationConfig)
    if min(len(data.train), len(data.test)) < 2:
        raise UserError(
            f"{params.section('data', Data).directory}: holds {len(data.train)} training and "
            f"{len(data.test)} test images; an evaluation needs two of each."
        )
    stages = read_yaml(PIPELINE_FILE)["stages"]
    models = {
        name: use_fast_layers(load_model(stage.model_path(name), model_class)).to(device)
        for name, model_class in REGISTRY.items()
        if f"train-{name}" in stages
    }
    for name, model in models.items():
        if isinstance(model, Reconstructs):
            check_logits(name, model, data.test, config.batch_size)
    histories = {name: _read_history(stage.history_path(name)) for name in models}
    shown = config.model_dump()
    shown["precision"] = "float32"
    shown["noise_factors"] = ", ".join(f"{factor:g}" for factor in config.noise_factors)
    with (
        stage.tracked("evaluate", params, compute, device, shown) as run,
        threadpool_limits(compute.threads),
    ):
        baseline = baseline_metrics(data, config, seed)
        numbers = range(JUDGES if has_classes(data) else 0)
        judges = [train_classifier(data.train, seed, number) for number in numbers]
        real = real_images(data, config, seed, judges)
        if real.seen:
            run.tag(judges=", ".join(f"{seen.accuracy:.4f}" for seen in real.seen))
        evaluated = {
            name: evaluate(model, data, config, seed, baseline, real)
            for name, model in models.items()
        }
        metrics = {name: dict(found.metrics) for name, found in evaluated.items()}
        drawn = {name: (model.loss_unit, model.drawn_losses) for name, model in models.items()}
        pictures = {
            "loss_curves": loss_curves(histories, drawn),
            **pictures_of(evaluated, data.test, config, seed),
            **class_pictures(evaluated, real),
        }
        images = {name: png(pixels) for name, pixels in pictures.items()}
        write_atomic(stage.EVALUATION_FILE, (json.dumps(metrics, indent=2) + "\n").encode())
        for name, content in images.items():
            write_atomic(stage.PICTURES_DIR / f"{name}.png", content)
            run.image(name, content)
        pages = (explorer_page(found, data.test, seed) for found in evaluated.values())
        page = next((page for page in pages if page), None)
        write_atomic(stage.EXPLORER_FILE, page or NO_PAGE)
        if page:
            run.artifact(stage.EXPLORER_FILE)
        embeddings = _embeddings(evaluated, data.test, seed, config.projected_images)
        for name, model in models.items():
            run.evaluation(
                name,
                stage.model_path(name),
                metrics[name],
                series=evaluated[name].series,
                config=model.config.model_dump(),
                embedding=embeddings.get(name),
            )
        _print_table(metrics)


def _embeddings(
    evaluated: dict[str, Evaluated], test: Split, seed: int, count: int
) -> dict[str, Embedding]:
    """The latents of the same few test images by every model that has latents for an image."""
    stream = generator(CPU, seed, "evaluate/projected")
    index = random_subset(test, count, stream).cpu().numpy()
    labels = None if test.labels is None else test.labels.cpu().numpy()[index]
    images = test.images.cpu().numpy()[index].transpose(0, 2, 3, 1)
    step = math.ceil(max(images.shape[1:3]) / _THUMBNAIL)
    images = images[:, ::step, ::step]
    thumbnails = images[..., 0] if images.shape[-1] == 1 else images
    return {
        name: Embedding(found.latents[index], labels, thumbnails)
        for name, found in evaluated.items()
        if found.latents is not None
    }


def _print_table(metrics: dict[str, dict[str, float]]) -> None:
    """A row a metric, a column a model."""
    table = Table("Test images", *(Column(name.upper(), justify="right") for name in metrics))
    for metric in dict.fromkeys(metric for values in metrics.values() for metric in values):
        shown = (values.get(metric) for values in metrics.values())
        table.add_row(metric, *("" if value is None else f"{value:.4f}" for value in shown))
    Console().print(table)


def _read_history(path: Path) -> dict[str, list[float]]:
    """A history file's columns."""
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}
