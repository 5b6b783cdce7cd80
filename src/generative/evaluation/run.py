"""The evaluation stage: trained models and test images in; figures, pictures, a tracked run out."""

import csv
import io
import json
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from threadpoolctl import threadpool_limits

from generative.compute import generator
from generative.evaluation.config import EvaluationConfig
from generative.evaluation.evaluate import Evaluated, evaluate
from generative.evaluation.latents import baseline_figures
from generative.evaluation.pictures import pictures_of
from generative.figures.curves import loss_curves
from generative.figures.images import png
from generative.files import sha256, write_atomic
from generative.models.file import load_model
from generative.models.registry import REGISTRY
from generative.outputs import EVALUATION_FILE, PICTURES_DIR, history_path, model_path, record_path
from generative.params import Params
from generative.setting import Setting, prepare_setting
from generative.tracking.events import ModelsEvaluated, Projection
from generative.tracking.run import now, tracked


def evaluate_all() -> None:
    """Evaluate every registered model on the test images, and write what the stage owes.

    Raises:
        UserError: before any work, for bad input.
        OSError: a file cannot be written.
    """
    params = Params()
    setting = prepare_setting("evaluate", params)
    config = params.section("evaluate", EvaluationConfig)
    seed, data = setting.seed, setting.data
    models = {
        name: load_model(model_path(name), model_class).to(setting.device)
        for name, model_class in REGISTRY.items()
    }
    digests = {name: sha256(model_path(name)) for name in models}
    histories = {name: _read_history(history_path(name)) for name in models}
    factors = ", ".join(f"{factor:g}" for factor in config.noise_factors)
    shown = {"seed": seed, **setting.compute.model_dump(), **config.model_dump()}
    shown["noise_factors"] = factors
    with (
        tracked(setting, record_path("evaluation"), shown, digests) as tracker,
        threadpool_limits(setting.compute.threads),
    ):
        baseline = baseline_figures(data, config, seed)
        evaluated = {
            name: evaluate(model, data, config, seed, baseline) for name, model in models.items()
        }
        figures = {name: dict(found.figures) for name, found in evaluated.items()}
        units = {name: model.loss_unit for name, model in models.items()}
        pictures = {
            "loss_curves": loss_curves(histories, units),
            **pictures_of(evaluated, data.test, config, seed),
        }
        images = {name: png(pixels) for name, pixels in pictures.items()}
        write_atomic(EVALUATION_FILE, (json.dumps(figures, indent=2) + "\n").encode())
        for name, content in images.items():
            write_atomic(PICTURES_DIR / f"{name}.png", content)
        tracker.log(
            ModelsEvaluated(
                now(),
                figures,
                images,
                series={name: found.series for name, found in evaluated.items()},
                configs={name: model.config.model_dump() for name, model in models.items()},
                projections=_projections(evaluated, setting, config.projected_images),
            )
        )
        _print_table(figures)


def _projections(
    evaluated: dict[str, Evaluated], setting: Setting, count: int
) -> dict[str, Projection]:
    """The codes of the same few test images by every model."""
    test = setting.data.test
    stream = generator(setting.device, setting.seed, "evaluate/projected")
    index = test.choice(count, stream).cpu().numpy()
    images, labels = test.images.cpu().numpy()[index, 0], test.labels.cpu().numpy()[index]
    return {
        name: Projection(found.codes[index], labels, images) for name, found in evaluated.items()
    }


def _print_table(figures: dict[str, dict[str, float]]) -> None:
    """A row a figure, a column a model."""
    table = Table("Test images", *(Column(name.upper(), justify="right") for name in figures))
    for figure in dict.fromkeys(figure for values in figures.values() for figure in values):
        shown = (values.get(figure) for values in figures.values())
        table.add_row(figure, *("" if value is None else f"{value:.4f}" for value in shown))
    Console().print(table)


def _read_history(path: Path) -> dict[str, list[float]]:
    """A history file's columns."""
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}
