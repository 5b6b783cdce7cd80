"""Every model of the pipeline, by its name; and trained ones, from their files."""

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from generative.core.config import validate
from generative.core.model import HEADER, MNIST_SHAPE, Model
from generative.errors import UserError
from generative.models.ae import AE
from generative.models.gan import GAN
from generative.models.vae import VAE

M = TypeVar("M", bound=Model[Any])

REGISTRY: dict[str, type[Model[Any]]] = {model.name: model for model in (AE, VAE, GAN)}

_REMEDY = "delete it and train it again with 'dvc repro'."


def model_name(path: Path) -> str:
    """Which model the file at `path` holds.

    Raises:
        UserError: the file is missing, or none of this pipeline's.
    """
    return str(_read(path)[0]["model"])


def load_model(path: Path, model_class: type[M]) -> M:
    """The model in `path`, on the CPU, ready to evaluate. Nothing is unpickled.

    Raises:
        UserError: the file is missing, damaged, of another model, or its weights do not fit its
            config.
    """
    header, weights = _read(path)
    if header["model"] != model_class.name:
        raise UserError(
            f"{path}: holds the model '{header['model']}', not '{model_class.name}'; {_REMEDY}"
        )
    config = validate(model_class.config_class, header["config"], f"{path}: its config")
    model = model_class(config, header["shape"])
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        mismatch = str(error).splitlines()[1].strip()
        raise UserError(
            f"{path}: the weights do not fit the config in the same file ({mismatch}); {_REMEDY}"
        ) from None
    return model.eval()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the weights of a model file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run 'dvc repro'.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            channels, height, width = map(int, header.get("shape", MNIST_SHAPE))
            known = {"model": header["model"], "config": header["config"]}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return known | {"shape": (channels, height, width)}, weights
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: not a model file of this pipeline, or damaged; {_REMEDY}"
        ) from None
