"""What every stage that computes begins with: its place, its device, its data, its origin."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from generative.compute import Compute, prepare
from generative.mnist import Mnist, load_mnist
from generative.mnist_files import DATA_DIR
from generative.params import Params
from generative.provenance import Origin, collect
from generative.tracking.events import Dataset
from generative.workspace import main_root


@dataclass(frozen=True)
class Setting:
    """Where a stage runs and what it reads."""

    root: Path
    stage: str
    seed: int
    compute: Compute
    device: torch.device
    data: Mnist
    dataset: Dataset
    origin: Origin


def prepare_setting(stage: str, params: Params) -> Setting:
    """Check and load what `stage`, as dvc.yaml names it, needs.

    Raises:
        UserError: for bad input.
    """
    seed, compute = params.seed(), params.section("compute", Compute)
    root, device = main_root(), prepare(compute)
    data = load_mnist(DATA_DIR, device)
    dataset = Dataset("mnist", data.digest, str(DATA_DIR))
    origin = collect(Path.cwd(), stage, params, device)
    if origin.trouble:
        print(f"warning: {origin.trouble} It cannot be rebuilt later.", file=sys.stderr)
    return Setting(root, stage, seed, compute, device, data, dataset, origin)
