"""How MLflow loads a logged model: `mlflow.pyfunc.load_model(...).predict(images)`."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from generative.models.base import Model
from generative.models.file import load_model, model_name
from generative.models.registry import REGISTRY

Images = npt.NDArray[np.float32]


class Reconstructor:
    """Reconstructs images: (B, 1, 28, 28) float32 in [0, 1], in and out."""

    def __init__(self, model: Model[Any]) -> None:
        self._model = model

    def predict(self, images: Images, params: object = None) -> Images:  # noqa: ARG002
        """The reconstructions; `params` is part of MLflow's call and not used."""
        with torch.inference_mode():
            return torch.sigmoid(self._model.reconstruct(torch.from_numpy(images))).numpy()


def _load_pyfunc(data_path: str) -> Reconstructor:
    path = Path(data_path)
    return Reconstructor(load_model(path, REGISTRY[model_name(path)]))
