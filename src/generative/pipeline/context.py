"""What every stage that computes begins with: its device, its data, and its tracked run."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from generative.config import Params
from generative.data.config import Data, Splitting
from generative.data.dataset import ImageSet, load_images
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
    source: Data
    apart: int
    """Training images kept for validation."""
    data: ImageSet

    @property
    def shown(self) -> dict[str, object]:
        """What every stage shows of its params."""
        used = {"binarize": self.source.binarize, "validation": self.apart}
        return {"seed": self.seed, **self.compute.model_dump(), **used}

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
    named, apart = params.section("data", Data), params.section("split", Splitting).validation
    images = load_images(named.directory, device, seed, named.binarize, apart)
    hardware = describe_device(device)
    return StageContext(stage, seed, compute, device, hardware, named, apart, images)


def tracked(context: StageContext, shown: Mapping[str, object]) -> AbstractContextManager[Run]:
    """The run of a stage, shown with those params."""
    kind = "device.name" if context.device.type == "cuda" else "cpu.capability"
    return start_run(
        context.stage,
        params={**context.shown, **shown},
        dataset=Dataset(context.source.name, context.data.digest, str(context.source.directory)),
        tags=context.hardware,
        device=f"{context.device.type} {context.hardware[kind]}",
        length="epochs",  # nothing in an epoch depends on how many there are
    )
