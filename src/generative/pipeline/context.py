"""What every stage that computes begins with: its place, its device, its data, its origin."""

from dataclasses import dataclass
from pathlib import Path

import torch

from generative.config import Params
from generative.data.dataset import Mnist, load_mnist
from generative.data.mnist import DATA_DIR
from generative.project import PROJECT
from generative.training.runtime import Compute, describe_device, prepare
from runrecord.events import Dataset
from runrecord.paths import repo_root
from runrecord.provenance.environment import Origin, collect_origin


@dataclass(frozen=True)
class StageContext:
    """Where a stage runs and what it reads."""

    root: Path
    stage: str
    seed: int
    compute: Compute
    device: torch.device
    data: Mnist
    dataset: Dataset
    origin: Origin


def prepare_stage(stage: str, params: Params) -> StageContext:
    """Check and load what `stage`, as dvc.yaml names it, needs.

    Raises:
        UserError: for bad input.
    """
    seed, compute = params.seed(), params.section("compute", Compute)
    root, device = repo_root(), prepare(compute)
    data = load_mnist(DATA_DIR, device)
    dataset = Dataset("mnist", data.digest, str(DATA_DIR))
    origin = collect_origin(Path.cwd(), stage, PROJECT, describe_device(device))
    return StageContext(root, stage, seed, compute, device, data, dataset, origin)
