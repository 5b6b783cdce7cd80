"""How MLflow keeps and loads a model: `mlflow.pyfunc.load_model(...).predict(images)`."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from mlflow.models import Model as MlflowModel

    from generative.models.base import Model

Images = npt.NDArray[np.float32]

_PACKAGE = Path(__file__).resolve().parent
_NEEDED = ("torch", "safetensors", "numpy", "pydantic", "pyyaml")


class Reconstructor:
    """Reconstructs images: (B, 1, 28, 28) float32 in [0, 1], in and out."""

    def __init__(self, model: "Model[Any]") -> None:
        self._model = model

    def predict(self, images: Images, params: object = None) -> Images:  # noqa: ARG002
        """The reconstructions; `params` is part of MLflow's call and not used."""
        import torch

        with torch.inference_mode():
            return torch.sigmoid(self._model.reconstruct(torch.from_numpy(images))).numpy()


def save_model(weights: Path, folder: Path, model: "MlflowModel") -> None:
    """Pack a model file as a pyfunc: safetensors and this package's code; nothing is pickled."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    images = Schema([TensorSpec(np.dtype("float32"), (-1, 1, 28, 28))])
    mlflow.pyfunc.save_model(
        folder,
        loader_module="generative.serving",
        data_path=str(weights),
        code_paths=[str(_PACKAGE)],
        mlflow_model=model,
        signature=ModelSignature(images, images),
        input_example=np.zeros((1, 1, 28, 28), np.float32),
        pip_requirements=[f"{name}=={version(name)}" for name in _NEEDED],
    )


def _load_pyfunc(data_path: str) -> Reconstructor:
    from generative.models.io import load_model, model_name
    from generative.models.registry import REGISTRY

    path = Path(data_path)
    return Reconstructor(load_model(path, REGISTRY[model_name(path)]))
