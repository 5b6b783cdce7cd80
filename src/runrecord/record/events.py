"""What happens in a run, as plain values: the only vocabulary of records and sinks.

An event names pictures, models and other files; their content travels beside it, as `Contents`.
Times are milliseconds since 1970, UTC. Whatever an event cannot hold is a ValueError when it is
made. What a newer version adds to an event, an older one passes over.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

Status = Literal["FINISHED", "FAILED", "KILLED"]

Contents = Mapping[str, bytes | Path]
"""The content of each file that an event names, or where it lies, by its name in the record."""

COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
"""A whole commit id of Git, SHA-1 or SHA-256."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST = 250  # characters of a title, and bytes of a file's name
_YEAR_2248 = 2**43  # milliseconds
_MOST_STEPS = 2**53  # what trackers keep without loss
_NO_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
NUMBER = "__float__"  # JSON has no such numbers: they are these texts, and objects among params


class _Checked:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "ignore"}


if TYPE_CHECKING:
    Number = float
    Steps = Mapping[str, list[float]]
else:  # as it is read; values that two titles have are written once, for the first of them
    Number = float | Literal["NaN", "Infinity", "-Infinity"]
    Steps = Mapping[str, list[Number] | str]


@dataclass(frozen=True)
class File(_Checked):
    """A file of the record, by its name there."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        _need(_SHA256.fullmatch(self.sha256), f"'{self.sha256}' is no SHA-256")


@dataclass(frozen=True)
class Dataset(_Checked):
    """The data a run read."""

    name: str
    digest: str
    source: str


@dataclass(frozen=True)
class RunStarted(_Checked):
    """A run began."""

    id: str
    stage: str
    time: int
    host: str
    params: Mapping[str, Any]
    """Values that JSON has, by name."""
    tags: Mapping[str, str]
    dataset: Dataset | None = None
    deps: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each dependency of the stage, by its path."""
    patch: File | None = None
    """What the code differed by from its commit, as `git apply` takes it."""
    command: tuple[str, ...] = ()
    """The program that runs, and its arguments."""
    number: int = 1
    """Which run it is of those that one execution of its stage makes, from 1."""

    def __post_init__(self) -> None:
        _need(_ID.fullmatch(self.id), f"'{self.id[:_LONGEST]}' is no id of a run")
        _check_place(self.time, self.number)
        _set(self, params=_plain(self.params))
        _check_titles([self.stage, *self.params, *self.tags])
        _check_digests(self.deps)
        _check_tags(self.tags)


@dataclass(frozen=True)
class Resumed(_Checked):
    """A run that had been stopped goes on from a checkpoint."""

    time: int
    epoch: int
    """The last epoch of the checkpoint; later ones are computed again, to the same bits."""
    event: Literal["resumed"] = "resumed"

    def __post_init__(self) -> None:
        _check_place(self.time, self.epoch)


@dataclass(frozen=True)
class Logged(_Checked):
    """Something was logged at a step, an epoch for instance. Everything goes by a title."""

    time: int
    step: int
    metrics: Mapping[str, Number] = field(default_factory=dict)
    steps: Steps = field(default_factory=dict)
    """A metric's values within the step: those of an epoch's batches."""
    images: Mapping[str, File] = field(default_factory=dict)  # PNG files
    texts: Mapping[str, File] = field(default_factory=dict)
    artifacts: Mapping[str, File] = field(default_factory=dict)
    """Files, each by the name it had."""
    tags: Mapping[str, str] = field(default_factory=dict)
    event: Literal["logged"] = "logged"

    def __post_init__(self) -> None:
        _check_place(self.time, self.step)
        written = self.steps
        whole = {k: written.get(v) if isinstance(v, str) else v for k, v in written.items()}
        _need(all(isinstance(one, list) for one in whole.values()), "a title has no values")
        _set(self, steps={k: _numbers(v) for k, v in whole.items()}, metrics=_named(self.metrics))
        for kind in (self.metrics, self.steps, self.images, self.texts, self.artifacts, self.tags):
            _check_titles(kind)
        _check_tags(self.tags)


@dataclass(frozen=True)
class Observed(_Checked):
    """What the machine did, or how fast the run went on it: shown, never compared."""

    time: int
    values: Mapping[str, Number]
    event: Literal["observed"] = "observed"

    def __post_init__(self) -> None:
        _check_place(self.time)
        _set(self, values=_named(self.values))
        _check_titles(self.values)


@dataclass(frozen=True)
class ModelSaved(_Checked):
    """The run wrote a model."""

    time: int
    name: str
    file: File
    filename: str
    """What the file is called outside the record."""
    step: int
    event: Literal["model"] = "model"

    def __post_init__(self) -> None:
        _check_place(self.time, self.step)
        _check_titles([self.name, self.filename])
        fits = len(self.filename.encode()) <= _LONGEST and self.filename not in (".", "..")
        _need(fits and "/" not in self.filename, f"'{self.filename}' is no file's name")


@dataclass(frozen=True)
class ModelEvaluated(_Checked):
    """A model that another run may have made was evaluated."""

    time: int
    model: str
    sha256: str
    """Of the model's file."""
    metrics: Mapping[str, Number]
    series: Mapping[str, list[tuple[int, Number]]] = field(default_factory=dict)
    """The points of a curve, by its name; x is 1 or more."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """How it was built and trained."""
    embedding: File | None = None
    event: Literal["evaluated"] = "evaluated"

    def __post_init__(self) -> None:
        _check_place(self.time)
        series = {k: [(x, *_numbers([y])) for x, y in points] for k, points in self.series.items()}
        _set(self, metrics=_named(self.metrics), series=series, config=_plain(self.config))
        _check_titles([self.model, *self.metrics, *self.series, *self.config])
        _check_digests({self.model: self.sha256})
        for name, points in self.series.items():
            fits = all(1 <= x < _MOST_STEPS for x, _ in points)
            _need(fits, f"'{name}' has a point left of 1, or beyond 2**53")


@dataclass(frozen=True)
class RunEnded(_Checked):
    """The run ended, well or badly."""

    time: int
    status: Status
    message: str = ""
    traceback: str = ""
    changed: tuple[str, ...] = ()
    """What the stage reads and was edited while the run went on."""
    outs: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file and folder that a finished run wrote, by its path."""
    output: File | None = None
    """What the program printed, where it was kept."""
    event: Literal["end"] = "end"

    def __post_init__(self) -> None:
        _check_place(self.time)
        _check_digests(self.outs)


Event = RunStarted | Resumed | Logged | Observed | ModelSaved | ModelEvaluated | RunEnded


def files_of(event: Event) -> list[File]:
    """The files that an event names."""
    match event:
        case RunStarted():
            found = [event.patch]
        case Logged():
            found = [*event.images.values(), *event.texts.values(), *event.artifacts.values()]
        case ModelSaved():
            found = [event.file]
        case ModelEvaluated():
            found = [event.embedding]
        case RunEnded():
            found = [event.output]
        case Resumed() | Observed():
            found = []
    return [file for file in found if file is not None]


def _need(right: object, otherwise: str) -> None:
    if not right:
        raise ValueError(otherwise)


def _numbers(values: list[float]) -> list[float]:
    """Those numbers; as JSON has them, some are texts."""
    return [_NO_NUMBERS.get(one, one) if isinstance(one, str) else one for one in values]


def _named(values: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(values, _numbers([*values.values()]), strict=True))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Params as JSON gives them back: lists, and objects by text; any number is a number."""
    try:
        return {name: _unfolded(value) for name, value in values.items()}
    except RecursionError:
        raise TypeError("values are nested too deep") from None


def _unfolded(value: Any) -> Any:
    if isinstance(value, Mapping):
        if [*value] == [NUMBER] and str(value[NUMBER]) in _NO_NUMBERS:
            return _NO_NUMBERS[str(value[NUMBER])]
        names = (key if isinstance(key, str) else str(index(key)) for key in value)
        return {name: _unfolded(one) for name, one in zip(names, value.values(), strict=True)}
    return [_unfolded(one) for one in value] if isinstance(value, list | tuple) else value


def _set(event: _Checked, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(event, name, value)


def _check_place(time: int, step: int = 0) -> None:
    _need(0 <= time < _YEAR_2248, f"{str(time)[:20]} is no time")
    _need(0 <= step < _MOST_STEPS, f"step {str(step)[:20]} is below 0 or beyond 2**53")


def _check_titles(titles: Iterable[str]) -> None:
    """Refuse what is no one-line text, or too long for one."""
    for title in titles:
        _need(
            0 < len(title) <= _LONGEST and not _CONTROL.search(title),
            f"{title[:_LONGEST]!r} is no name: it should be one line of 1 to {_LONGEST} characters",
        )


def _check_tags(tags: Mapping[str, str]) -> None:
    """Refuse what would mean something to MLflow or its sink, or an option to Git."""
    for name, value in tags.items():
        reserved = name.startswith(("mlflow.", "record.", "model.")) or name == "host"
        _need(not reserved, f"the tag '{name}' is not a record's to set")
        steers = name.startswith(("git.", "dvc.")) and str(value).startswith("-")
        _need(not steers, f"the tag '{name}' begins with '-'")
    commit = tags.get("git.commit")
    _need(commit is None or COMMIT.fullmatch(commit), "the tag 'git.commit' is no commit id")


def _check_digests(digests: Mapping[str, str]) -> None:
    for name, digest in digests.items():
        _need(_SHA256.fullmatch(digest), f"{name!r} has no SHA-256, but {digest!r}")
