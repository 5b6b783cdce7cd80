"""The folder format of a record, version 1: what is checked when one is read; docs/records.md."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from runrecord.events import Status
from runrecord.text import printable

FORMAT = 1
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
"""A whole commit id of Git, SHA-1 or SHA-256."""
START, EVENTS, PATCH = "run.json", "events.jsonl", "change.patch"
LOCK = "lock"
"""Held by the process that runs, while it runs; no part of the record."""

Files = Mapping[str, Path]
"""A record's files by their names in it, wherever they lie: in one folder, or in DVC's cache."""


def _unreserved(tag: str) -> str:
    """Refuse a tag that would mean something to MLflow, or that the MLflow sink sets itself."""
    if tag.startswith(("mlflow.", "record.", "model.")):
        raise ValueError(f"the tag '{tag}' is not a record's to set")
    return tag


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-/ ]+$", max_length=250)]
Tag = Annotated[Key, AfterValidator(_unreserved)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RecordRefused(Exception):
    """A record cannot be used; the message is one sentence for a person."""


class _Part(BaseModel):
    """Fields may be added without a new format: what a reader does not know, it passes over."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", ser_json_inf_nan="constants"
    )


class _Dataset(_Part):
    name: str
    digest: str
    source: str


class StartPart(_Part):
    """How a run began: `run.json`."""

    format: int
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    stage: Name
    time: Annotated[int, Field(ge=0, lt=2**43)]
    host: str
    params: dict[Key, str | int | float | bool]
    tags: dict[Tag, str]
    dataset: _Dataset
    models: dict[Name, Sha256]
    deps: dict[str, Sha256] = {}
    patch: Sha256 | None = None
    """Of the file `change.patch`."""

    @field_validator("tags")
    @classmethod
    def _harmless(cls, tags: dict[str, str]) -> dict[str, str]:
        """Refuse what Git could take for an option; show what could steer a terminal as U+FFFD."""
        for name, value in tags.items():
            if name == "git.commit" and not COMMIT.fullmatch(value):
                raise ValueError(f"the tag '{name}' is no commit id")
            if name.startswith(("git.", "dvc.")) and value.startswith("-"):
                raise ValueError(f"the tag '{name}' begins with '-'")
        return {name: printable(value) for name, value in tags.items()}


class ResumedLine(_Part):
    """A run goes on."""

    event: Literal["resumed"] = "resumed"
    time: int
    epoch: int


class EpochLine(_Part):
    """An epoch, its images by the names of their files."""

    event: Literal["epoch"] = "epoch"
    time: int
    epoch: Annotated[int, Field(ge=1)]
    means: dict[Key, float]
    steps: dict[Key, list[float]]
    images: dict[str, str]


class ModelLine(_Part):
    """A model, by the name of its file."""

    event: Literal["model"] = "model"
    time: int
    name: Name
    file: str
    sha256: Sha256
    epoch: int


class EvaluationLine(_Part):
    """An evaluation, its images and embeddings by the names of their files."""

    event: Literal["evaluation"] = "evaluation"
    time: int
    figures: dict[Name, dict[Key, float]]
    images: dict[str, str]
    series: dict[Name, dict[Key, list[tuple[Annotated[int, Field(ge=1)], float]]]] = {}
    configs: dict[Name, dict[Key, str | int | float | bool]] = {}
    projections: dict[Name, str] = {}


class EndLine(_Part):
    """How a run ended."""

    event: Literal["end"] = "end"
    time: int
    status: Status
    message: str
    traceback: str
    changed: tuple[str, ...] = ()
    outs: dict[str, Sha256] = {}


Line = Annotated[
    ResumedLine | EpochLine | ModelLine | EvaluationLine | EndLine, Field(discriminator="event")
]
LINE: TypeAdapter[Line] = TypeAdapter(Line)


def first_error(error: ValidationError) -> str:
    """The first thing that is wrong, as a clause."""
    detail = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in detail['loc']) or 'it'}: {detail['msg'].lower()}"
