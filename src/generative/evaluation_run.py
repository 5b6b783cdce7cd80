"""The evaluation stage: trained models and test images in; figures, pictures, a tracked run out."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from generative.compute import generator
from generative.evaluation import EvaluationConfig, evaluate
from generative.figures.curves import loss_curves
from generative.figures.images import Pixels, image_grid, image_rows, png
from generative.files import sha256, write_atomic
from generative.mnist import Split
from generative.models.base import LatentVariableModel, Model, add_noise
from generative.models.file import load_model
from generative.models.registry import REGISTRY
from generative.outputs import EVALUATION_FILE, PICTURES_DIR, history_path, model_path, record_path
from generative.params import Params
from generative.setting import prepare_setting
from generative.tracking.events import ModelsEvaluated
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
    seed, test = setting.seed, setting.data.test
    models = {
        name: load_model(model_path(name), model_class).to(setting.device)
        for name, model_class in REGISTRY.items()
    }
    digests = {name: sha256(model_path(name)) for name in models}
    histories = {name: _read_history(history_path(name)) for name in models}
    shown = {"seed": seed, **setting.compute.model_dump(), **config.model_dump()}
    with tracked(setting, record_path("evaluation"), shown, digests) as tracker:
        figures = {name: evaluate(model, test, config, seed) for name, model in models.items()}
        pictures = {
            **pictures_of(models, test, config, seed),
            "loss_curves": loss_curves(histories),
        }
        images = {name: png(pixels) for name, pixels in pictures.items()}
        write_atomic(EVALUATION_FILE, (json.dumps(figures, indent=2) + "\n").encode())
        for name, content in images.items():
            write_atomic(PICTURES_DIR / f"{name}.png", content)
        tracker.log(ModelsEvaluated(now(), figures, images))
        for name, values in figures.items():
            print(f"{name}  " + "  ".join(f"{key} {value:.4f}" for key, value in values.items()))


@torch.inference_mode()
def pictures_of(
    models: dict[str, Model[Any]], split: Split, config: EvaluationConfig, seed: int
) -> dict[str, Pixels]:
    """Reconstructions and denoising by every model side by side, and samples from priors."""
    device = split.images.device
    images = split.floats(slice(0, config.pictured_images))
    noisy = add_noise(images, config.noise_factor, generator(device, seed, "evaluate/noise"))
    reconstructions, denoised = [("Original", images)], [("Original", images), ("Noisy", noisy)]
    pictures = {}
    for name, model in models.items():
        label = name.upper()
        reconstructions.append((f"Reconstructed by the {label}", _means(model, images)))
        denoised.append((f"Denoised by the {label}", _means(model, noisy)))
        if isinstance(model, LatentVariableModel):
            samples = model.sample(config.samples, generator(device, seed, "evaluate/samples"))
            title = f"Samples from the {label}'s prior"
            pictures[f"{name}_samples"] = image_grid(title, _array(samples), columns=8)
    return {
        "reconstructions": image_rows([(title, _array(row)) for title, row in reconstructions]),
        "denoising": image_rows([(title, _array(row)) for title, row in denoised]),
        **pictures,
    }


def _means(model: Model[Any], images: Tensor) -> Tensor:
    return torch.sigmoid(model.reconstruct(images))


def _array(images: Tensor) -> npt.NDArray[np.float32]:
    return images.float().cpu().numpy()


def _read_history(path: Path) -> dict[str, list[float]]:
    """A history file's columns."""
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}
