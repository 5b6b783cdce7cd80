"""How MLflow keeps and loads a model: `mlflow.pyfunc.load_model(...).predict(images)`.

A model that reconstructs and also samples draws its own with `predict(images, {"seed": 3})`.
"""

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

if TYPE_CHECKING:
    from mlflow.models import Model as MlflowModel

    from generative.core.model import Reconstructs, Samples, Shape

Images = npt.NDArray[np.float32]

_PACKAGE = Path(__file__).resolve().parent
_MNIST = (1, 28, 28)  # where a model's file says no shape
_NEEDED = ("torch", "safetensors", "numpy", "pydantic", "ruamel.yaml")


class Reconstructor:
    """Reconstructs images: (B, C, H, W) float32 in [0, 1], in and out."""

    def __init__(self, model: "Reconstructs", shape: "Shape") -> None:
        self._model, self.shape = model, shape

    def predict(self, images: Images, params: Mapping[str, Any] | None = None) -> Images:
        """The reconstructions. With a `seed` in `params`, as many images of the model's own.

        Raises:
            ValueError: there is a seed, but the model only reconstructs.
        """
        import torch

        from generative.core.model import Samples

        seed = (params or {}).get("seed")
        with torch.inference_mode():
            if seed is None:
                return torch.sigmoid(self._model.reconstruct(torch.from_numpy(images))).numpy()
            if not isinstance(self._model, Samples):
                raise ValueError("seed: this model draws no images of its own; leave it out.")
            return self._model.sample(len(images), torch.Generator().manual_seed(seed)).numpy()


class Sampler:
    """Draws an image, (C, H, W) float32 in [0, 1], for each seed of (B,) int64."""

    def __init__(self, model: "Samples", shape: "Shape") -> None:
        self._model, self.shape = model, shape

    def predict(self, seeds: npt.NDArray[np.int64], params: object = None) -> Images:  # noqa: ARG002
        """The images, (B, C, H, W), the same for the same seed; `params` is not used."""
        import torch

        with torch.inference_mode():
            drawn = [self._model.sample(1, torch.Generator().manual_seed(int(s))) for s in seeds]
            return torch.cat(drawn).numpy()


def save_model(weights: Path, folder: Path, model: "MlflowModel") -> None:
    """Pack a model file as a pyfunc: safetensors and this package's code; nothing is pickled.

    Of the code, what holds a secret is left out, as of a run's recorded change.
    """
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    shape, gives_back = _served(weights)
    images = Schema([TensorSpec(np.dtype("float32"), (-1, *shape))])
    seeds = Schema([TensorSpec(np.dtype("int64"), (-1,))])
    params = ParamSchema([ParamSpec("seed", DataType.long, None)]) if gives_back else None
    example = np.zeros((1, *shape), np.float32) if gives_back else np.zeros(1, np.int64)
    with TemporaryDirectory() as scratch:
        mlflow.pyfunc.save_model(
            folder,
            loader_module="generative.serving",
            data_path=str(weights),
            code_paths=[str(_pack_code(Path(scratch)))],
            mlflow_model=model,
            signature=ModelSignature(images if gives_back else seeds, images, params),
            input_example=example,
            pip_requirements=[f"{name}=={version(name)}" for name in _NEEDED],
        )


def _served(weights: Path) -> tuple["Shape", bool]:
    """The shape of a model's images, and whether it gives images back.

    One with an encoder does: its file's header tells. Another is built, which loads PyTorch: a
    run's end waits for that.
    """
    with safe_open(weights, framework="numpy") as file:
        channels, height, width = json.loads(file.metadata()["generative"]).get("shape", _MNIST)
        encodes = any(key.startswith("encoder.") for key in file.keys())  # noqa: SIM118
    shape = channels, height, width
    return shape, encodes or isinstance(_load_pyfunc(str(weights)), Reconstructor)


def _pack_code(folder: Path) -> Path:
    """A copy of this package that may leave the machine; what is left out is said."""
    from runrecord.safety.secrets import why_secret
    from runrecord.safety.text import printable

    packed = folder / _PACKAGE.name
    for path in _code_of(_PACKAGE):
        name, content = path.relative_to(_PACKAGE).as_posix(), path.read_bytes()
        if why := why_secret(name, content):
            shown = printable(f"{_PACKAGE.name}/{name}")
            print(f"warning: {shown} is not packed with the model: it {why}.", file=sys.stderr)
            continue
        (packed / name).parent.mkdir(parents=True, exist_ok=True)
        (packed / name).write_bytes(content)
    return packed


def _code_of(package: Path) -> list[Path]:
    """The files of a package, less compiled ones."""
    return sorted(
        path
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.relative_to(package).parts
    )


def _check_code(own: Path) -> None:
    """Refuse to run a model by other code than it was packed with, which is `own`.

    MLflow puts that on the path, but a process has one package of a name: the first it imported.

    Raises:
        ImportError: another model's code, or a checkout's, is in this process and differs.
    """
    for path in _code_of(own):
        running = _PACKAGE / path.relative_to(own)
        if not running.is_file() or running.read_bytes() != path.read_bytes():
            raise ImportError(
                f"{own.parent.parent}: this model has other code than the one that this process "
                f"runs ({running} differs); load it in a process of its own."
            )


def _load_pyfunc(data_path: str) -> Reconstructor | Sampler:
    """What the model can do: one that gives images back does that, another draws them.

    Raises:
        ImportError: the code in this process is not the model's.
    """
    _check_code(Path(data_path).resolve().parent.parent / "code" / _PACKAGE.name)
    from generative.core.model import Reconstructs, Samples
    from generative.models.registry import REGISTRY, load_model, model_name

    path = Path(data_path)
    model = load_model(path, REGISTRY[model_name(path)])
    if isinstance(model, Reconstructs):
        return Reconstructor(model, model.shape)
    assert isinstance(model, Samples)
    return Sampler(model, model.shape)
