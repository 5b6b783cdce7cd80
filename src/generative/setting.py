"""What every stage that computes begins with: its place, its device, its data, its origin."""

from dataclasses import dataclass
from pathlib import Path

import torch

from generative import provenance
from generative.compute import Compute, prepare
from generative.mnist import Mnist, load_mnist
from generative.mnist_files import DATA_DIR
from generative.params import Params
from generative.tracking.events import Dataset
from generative.workspace import main_root


@dataclass(frozen=True)
class Setting:
    """Where a stage runs and what it reads."""

    root: Path
    seed: int
    compute: Compute
    device: torch.device
    data: Mnist
    dataset: Dataset
    tags: dict[str, str]


def prepare_setting(params: Params) -> Setting:
    """Check and load what every stage needs.

    Raises:
        UserError: for bad input.
    """
    seed, compute = params.seed(), params.section("compute", Compute)
    root, device = main_root(), prepare(compute)
    data = load_mnist(DATA_DIR, device)
    dataset = Dataset("mnist", data.digest, str(DATA_DIR))
    return Setting(
        root, seed, compute, device, data, dataset, provenance.collect(Path.cwd(), device)
    )
