"""A trained model as one safetensors file: the weights and the config that built them."""

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from generative.core.config import validate
from generative.core.model import MNIST_SHAPE, Model
from generative.errors import UserError

M = TypeVar("M", bound=Model[Any])

_KEY = "generative"  # one key: safetensors writes several in no fixed order
_REMEDY = "delete it and train it again with 'dvc repro'."


def to_bytes(model: Model[Any]) -> bytes:
    """A model as the content of its file; equal weights and config give equal bytes."""
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    config = model.config.model_dump(exclude_defaults=True)  # as files from before these keys were
    header = {"model": model.name, "config": config}
    if model.shape != MNIST_SHAPE:  # files from before there were other images say none
        header["shape"] = model.shape
    return save(weights, metadata={_KEY: json.dumps(header, sort_keys=True)})


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
            header = json.loads((file.metadata() or {})[_KEY])
            channels, height, width = map(int, header.get("shape", MNIST_SHAPE))
            shape = channels, height, width
            return (
                {"model": header["model"], "config": header["config"], "shape": shape},
                {key: file.get_tensor(key) for key in file.keys()},  # noqa: SIM118
            )
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: not a model file of this pipeline, or damaged; {_REMEDY}"
        ) from None
