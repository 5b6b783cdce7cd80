"""What every stage that computes begins with: its device, its data, and its tracked run."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from generative.config import Params
from generative.data.dataset import Mnist, load_mnist
from generative.data.mnist import DATA_DIR
from generative.training.runtime import Compute, describe_device, prepare
from runrecord import Dataset, Run, start_run


@dataclass(frozen=True)
class StageContext:
    """What a stage reads, and what it computes on."""

    stage: str
    seed: int
    compute: Compute
    device: torch.device
    hardware: Mapping[str, str]
    data: Mnist

    @property
    def where(self) -> str:
        """The device, for a person."""
        return f"{self.device.type} ({self.hardware['device.name']})"


def prepare_stage(stage: str, params: Params) -> StageContext:
    """Check and load what `stage`, as dvc.yaml names it, needs.

    Raises:
        UserError: for bad input.
    """
    seed, compute = params.seed(), params.section("compute", Compute)
    device = prepare(compute)
    data = load_mnist(DATA_DIR, device)
    return StageContext(stage, seed, compute, device, describe_device(device), data)


def tracked(context: StageContext, shown: Mapping[str, object]) -> AbstractContextManager[Run]:
    """The run of a stage, shown with those params."""
    kind = "device.name" if context.device.type == "cuda" else "cpu.capability"
    return start_run(
        context.stage,
        params=shown,
        dataset=Dataset("mnist", context.data.digest, str(DATA_DIR)),
        tags=context.hardware,
        device=f"{context.device.type} {context.hardware[kind]}",
    )
