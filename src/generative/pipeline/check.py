"""`generative check`: are params.yaml and dvc.yaml right, before the first stage starts?"""

import re
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import partial
from inspect import getfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from generative.checks import check_choice, check_portable, check_shapes
from generative.core.compute import Compute, check_compute
from generative.core.config import PIPELINE_FILE, Data, Params, Section, Splitting
from generative.core.idx import SPLITS, images_file, read_split, sha256_of
from generative.core.model import MNIST_SHAPE, Model, Shape
from generative.data.download import check_source
from generative.data.sources import KNOWN, SourceFailed, from_own
from generative.errors import RunFailed, UserError, read_yaml
from generative.evaluation import EvaluationConfig
from generative.models.registry import REGISTRY
from generative.pipeline.stage import history_path, model_path
from runrecord.run.process import exit_status


def check() -> None:
    """Validate every block of params.yaml, also those of stages that come last, and their deps.

    Raises:
        UserError: naming what is wrong.
    """
    params = Params()
    params.seed()
    compute = params.section("compute", Compute)
    check_compute(compute)
    blocks: dict[str, type[Section]] = {"data": Data, "evaluate": EvaluationConfig}
    for name, schema in blocks.items():
        params.section(name, schema)
    apart = params.section("split", Splitting).validation
    data = params.section("data", Data)
    check_source(data)
    shape = _shape_of(data)
    stages = read_yaml(PIPELINE_FILE).get("stages") or {}
    for stage, body in stages.items():
        name = stage.removeprefix("train-")
        outs = body.get("outs") or () if isinstance(body, dict) else ()
        if name not in REGISTRY and str(model_path(name)) in outs:
            raise UserError(
                f"{PIPELINE_FILE}: stage '{stage}' trains a model that is not in "
                "src/generative/models/registry.py; add it there, or it is not evaluated."
            )
    for name, model in REGISTRY.items():
        if f"train-{name}" in stages:
            config = params.section(name, model.config_class)
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
        if not isinstance(body, dict) or body.keys() & {"foreach", "matrix", "wdir"}:
            continue
        deps = [re.sub(r"\$\{.*?\}", "*", dep) for dep in body.get("deps") or ()]
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
        RunFailed: it holds something else than images of one kind and size.
    """
    data = Data(name="mine", source=source, sha256=None, binarize="none")
    check_source(data)
    with TemporaryDirectory() as folder:
        try:
            from_own(source, Path(folder))
        except SourceFailed as error:
            raise RunFailed(f"{source}: {error}.") from None
        print(sha256_of(Path(folder)))


def main() -> None:
    """The command line."""
    match sys.argv[1:]:
        case ["check"]:
            sys.exit(exit_status(check, mistakes=(UserError,), failures=(RunFailed,)))
        case ["hash", source]:
            command = partial(print_sum, source)
            sys.exit(exit_status(command, mistakes=(UserError,), failures=(RunFailed,)))
    print("usage: generative check        is params.yaml right?")
    print("       generative hash FOLDER  the SHA-256 of your images, for data.sha256")
    print("all other commands: runrecord --help")
    sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
