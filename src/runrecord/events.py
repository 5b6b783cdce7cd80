"""What happens in a run, as plain values: all that a sink ever sees."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Status = Literal["FINISHED", "FAILED", "KILLED"]

Png = bytes
"""A picture, as the content of a PNG file."""


@dataclass(frozen=True)
class Dataset:
    """The data a run read."""

    name: str
    digest: str
    source: str


@dataclass(frozen=True)
class RunStarted:
    """A run began. Times are milliseconds since 1970, UTC, here and below."""

    id: str
    stage: str
    time: int
    host: str
    params: Mapping[str, str | int | float | bool]
    tags: Mapping[str, str]
    dataset: Dataset
    models: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each model file the run reads, by the model's name."""
    deps: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each dependency of the stage, by its path."""
    patch: bytes = b""
    """What the code differed by from its commit, as `git apply` takes it."""


@dataclass(frozen=True)
class Resumed:
    """A run that had been stopped goes on from a checkpoint."""

    time: int
    epoch: int
    """The last epoch of the checkpoint; later ones are computed again, to the same bits."""


@dataclass(frozen=True)
class EpochEnded:
    """An epoch of training ended."""

    time: int
    epoch: int
    steps: Mapping[str, list[float]]
    """Each loss at each step of this epoch."""
    means: Mapping[str, float]
    images: Mapping[str, Png]


@dataclass(frozen=True)
class ModelSaved:
    """The run wrote its model."""

    time: int
    name: str
    path: Path
    """Where its file lies; in DVC's cache, under another name."""
    file: str
    """Its file's name."""
    sha256: str
    epoch: int


@dataclass(frozen=True)
class Embedding:
    """Vectors that stand for examples, with labels and thumbnails."""

    vectors: npt.NDArray[np.float32]
    """(N, Z)."""
    labels: npt.NDArray[np.uint8]
    """(N,)."""
    thumbnails: npt.NDArray[np.uint8]
    """(N, H, W)."""


@dataclass(frozen=True)
class EvaluationEnded:
    """Metrics of the models that the run read, and pictures."""

    time: int
    metrics: Mapping[str, Mapping[str, float]]
    """By model, then by name."""
    images: Mapping[str, Png]
    series: Mapping[str, Mapping[str, list[tuple[int, float]]]] = field(default_factory=dict)
    """By model, then by name: the points of a curve, its x being 1 or more."""
    configs: Mapping[str, Mapping[str, str | int | float | bool]] = field(default_factory=dict)
    """By model: how it was built and trained."""
    embeddings: Mapping[str, Embedding] = field(default_factory=dict)
    """By model: of some examples."""


@dataclass(frozen=True)
class RunEnded:
    """The run ended, well or badly."""

    time: int
    status: Status
    message: str = ""
    traceback: str = ""
    changed: tuple[str, ...] = ()
    """Dependencies that were edited while the run went on."""
    outs: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file and folder that a finished run wrote, by its path."""


Event = RunStarted | Resumed | EpochEnded | ModelSaved | EvaluationEnded | RunEnded
