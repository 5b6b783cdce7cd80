"""`generative check`: are params.yaml and dvc.yaml right, before the first stage starts?"""

import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from fnmatch import fnmatch
from functools import partial
from inspect import getfile
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Generator, Tensor

from generative.checks import check_choice, check_compute, check_portable
from generative.core.compute import Compute
from generative.core.config import PARAMS_FILE, PIPELINE_FILE, Data, Params, Splitting, validate
from generative.core.idx import SPLITS, images_file, read_split
from generative.core.model import MNIST_SHAPE, Model, Reconstructs, Samples, Shape
from generative.data.download import check_source, download
from generative.data.sources import KNOWN, sha256_of
from generative.errors import RunFailed, UserError, read_yaml, stages_in
from generative.evaluation import EvaluationConfig
from generative.models.registry import REGISTRY
from generative.pipeline.schema import SCHEMA_FILE, schema
from generative.pipeline.stage import history_path, model_path
from runrecord.run.process import exit_status

_TEMPLATES = {"foreach", "matrix"}  # of which DVC makes stages
_LARGEST = 2**31 - 1  # of sizes and counts, whatever memory there is


def check() -> None:
    """Validate every block of params.yaml, also those of stages that come last, and their deps.

    Raises:
        UserError: naming what is wrong.
    """
    params = Params()
    params.seed()
    compute = params.section("compute", Compute)
    check_compute(compute)
    data = params.section("data", Data)
    params.section("evaluate", EvaluationConfig)
    apart = params.section("split", Splitting).validation
    check_source(data)
    shape = _shape_of(data)
    stages = stages_in(PIPELINE_FILE)
    for stage, body in stages.items():
        name = stage.removeprefix("train-")
        if name not in REGISTRY and str(model_path(name)) in (body.get("outs") or ()):
            raise UserError(
                f"{PIPELINE_FILE}: stage '{stage}' trains a model that is not in "
                "src/generative/models/registry.py; add it there, or it is not evaluated."
            )
    templates = any(body.keys() & _TEMPLATES for body in stages.values())
    blocks = read_yaml(PARAMS_FILE) if templates else {}
    for name, model in REGISTRY.items():
        if f"train-{name}" in stages or name in blocks:
            config = params.section(name, model.config_class)
            for key, value in config:
                if isinstance(value, int) and value > _LARGEST:
                    raise UserError(
                        f"{PARAMS_FILE}: {name}.{key} is {value}; it should be {_LARGEST} at most."
                    )
            check_choice(name, config, model.losses, apart)
            check_portable(name, config, compute)
            if shape:
                check_shapes(model(config, shape), torch.zeros(2, *shape))
            _check_deps(name, model, stages)


def _shape_of(data: Data) -> Shape | None:
    """The shape of the images; nothing for one's own that are not there yet."""
    if images_file(data.directory, SPLITS[1]).is_file():
        channels, height, width = read_split(data.directory, SPLITS[1])[0].shape[1:]
        return channels, height, width
    return MNIST_SHAPE if data.name in KNOWN else None


@torch.inference_mode()
def check_shapes(model: Model[Any], images: Tensor) -> None:
    """Does a model take images, (B, C, H, W), and are those that it makes of the same shape?

    Raises:
        UserError: no; evaluation would find it, when training is over.
    """
    shape, rng = images.shape[1:], Generator(images.device)
    model.eval()
    try:
        made = {f"row '{title}' of preview": rows for title, rows in model.preview(images, rng)}
        if isinstance(model, Samples):
            made["sample"] = model.sample(len(images), rng)
        if isinstance(model, Reconstructs):
            made["reconstruct"] = model.reconstruct(images)
    except RuntimeError as error:  # PyTorch's, of sizes that do not go together
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(
            f"model '{model.name}' cannot take images of {_sides(shape)}: {reason}; build its "
            "layers from the `shape` that it is given."
        ) from None
    for what, drawn in made.items():
        if drawn.shape[1:] != shape:
            raise UserError(
                f"model '{model.name}': {what} gives images of {_sides(drawn.shape[1:])}, but the "
                f"data's are {_sides(shape)}; build its layers from the `shape` that it is given."
            )


def _sides(shape: torch.Size) -> str:
    return " x ".join(str(side) for side in shape)


def _check_deps(name: str, model: type[Model[Any]], stages: Mapping[str, Any]) -> None:
    """Does an edit of a model's files train it again, and does training evaluate it again?

    Of stages written out: not of those that DVC makes of a template.
    """
    package = Path(__file__).parents[1]
    bases = [base for base in model.__mro__ if base.__module__.startswith("generative.models.")]
    own = [Path("src/generative") / Path(getfile(base)).relative_to(package) for base in bases]
    needed = {
        f"train-{name}": own,
        "evaluate": [model_path(name), history_path(name)],
    }
    for stage, paths in needed.items():
        body = stages.get(stage)
        if body is None or body.keys() & {*_TEMPLATES, "wdir"}:
            continue
        deps = [re.sub(r"\$\{.*?\}", "*", str(dep)) for dep in body.get("deps") or ()]
        for path in paths:
            if not any(path.is_relative_to(dep) or fnmatch(str(path), dep) for dep in deps):
                raise UserError(
                    f"{PIPELINE_FILE}: stage '{stage}' lacks the dep {path}; add it, or a change "
                    "there goes unnoticed."
                )


def print_sum(source: str) -> None:
    """Print the SHA-256 that pins images of one's own, for `data.sha256`.

    Raises:
        UserError: that is no folder and no address.
        RunFailed: it is out of reach, or holds something else than images of one kind and size.
    """
    given = {"name": "mine", "source": source, "sha256": None, "binarize": "none"}
    data = validate(Data, given, "generative hash")
    check_source(data)
    with TemporaryDirectory() as folder:
        images = Path(folder) / "mine"
        with redirect_stdout(StringIO()):  # what the stage says
            download(data, images)
        print(sha256_of(images))


def main() -> None:
    """The command line."""
    match sys.argv[1:]:
        case ["check"]:
            sys.exit(exit_status(check, mistakes=(UserError,), failures=(RunFailed,)))
        case ["hash", source]:
            command = partial(print_sum, source)
            sys.exit(exit_status(command, mistakes=(UserError,), failures=(RunFailed,)))
        case ["schema"]:
            SCHEMA_FILE.write_text(schema(), encoding="utf-8")
            return
    print("usage: generative check        is params.yaml right?")
    print("       generative hash FOLDER  the SHA-256 of your images, for data.sha256")
    print(
        f"       generative schema       writes {SCHEMA_FILE}, which editors check params.yaml by"
    )
    print("all other commands: runrecord --help")
    sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
