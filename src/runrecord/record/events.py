"""What happens in a run, as plain values and as JSON: the only vocabulary of records and trackers.

An event names pictures, models and other files; their content travels beside it, as `Contents`.
Times are milliseconds since 1970, UTC. These classes are the schema of a record: a value that an
event cannot hold is a ValueError when it is made, and when it is read (docs/runrecord/records.md).
"""

import dataclasses
import math
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import field, replace
from operator import index
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from runrecord.errors import UserError
from runrecord.safety.secrets import redact
from runrecord.safety.text import printable

Contents = Mapping[str, bytes | Path]
"""The content of each file that an event names, or where it lies, by its name in the record."""

COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")  # a whole commit id of Git, SHA-1 or SHA-256

MOST = 2**28
"""Bytes of what is read as a whole: `run.json`, a line, a picture, a patch, an embedding."""
_LONGEST_WHY = 500  # characters of what is wrong with a record
START, EVENTS, PATCH = "run.json", "events.jsonl", "change.patch"
LOCK = "lock"  # held by the process that runs, while it runs; no part of the record

Files = Mapping[str, Path]
"""A record's files by their names in it, wherever they lie: in one folder, or in DVC's cache."""

FORMAT: Literal[2] = 2
_CONFIG = ConfigDict(strict=True, extra="forbid", ser_json_inf_nan="strings")
_LONGEST = 250  # characters of a title, and bytes of a file's name
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NUMBER = "__float__"  # JSON has no such numbers: metrics have texts, params objects in their place


def strict_json(value: Any, free: bool = False) -> Any:
    """A value of JSON without NaN and infinities, which are texts.

    Where a text could be meant (`free`, as in params), they are objects that say what they are.
    """
    if isinstance(value, float) and not math.isfinite(value):
        text = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return {_NUMBER: text} if free else text
    if isinstance(value, dict):
        return {key: strict_json(one, free) for key, one in value.items()}
    return [strict_json(one, free) for one in value] if isinstance(value, list | tuple) else value


def _text(pattern: str, what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text[:_LONGEST]!r} is not {what}")
        return text

    return AfterValidator(check)


def _filename(text: str) -> str:
    if len(text.encode()) > _LONGEST or "/" in text or text in (".", ".."):
        raise ValueError(f"'{text}' is not a file's name")
    return text


def _tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse what would mean something to MLflow or to its tracker, or an option to Git."""
    for name, value in tags.items():
        if name.startswith(("mlflow.", "record.", "model.")) or name == "host":
            raise ValueError(f"the tag '{name}' is not a record's to set")
        if name.startswith(("git.", "dvc.")) and value.startswith("-"):
            raise ValueError(f"the tag '{name}' begins with '-'")
    if "git.commit" in tags and not COMMIT.fullmatch(tags["git.commit"]):
        raise ValueError("the tag 'git.commit' is not a commit id")
    return tags


def _whole(value: Any) -> Any:
    """NumPy's and PyTorch's whole numbers are taken too."""
    return index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


def _number(value: Any) -> Any:
    """NumPy's and PyTorch's numbers are taken too, and the texts that stand for NaN."""
    if isinstance(value, str) and value not in _NUMBERS:
        raise ValueError(f"{value[:_LONGEST]!r} is not a number")
    return value


def _values(steps: Any) -> Any:
    """The values of each title; a title in their place stands for that title's values."""
    if not isinstance(steps, Mapping):
        return steps
    return {title: steps.get(one) if isinstance(one, str) else one for title, one in steps.items()}


def _params(values: Any) -> Any:
    """Params as JSON gives them back: lists, and objects by text; any number is a number."""
    if not isinstance(values, Mapping):
        return values
    try:
        return {name: _param(value) for name, value in values.items()}
    except RecursionError:
        raise ValueError("values are nested too deep") from None


def _param(value: Any) -> Any:
    if isinstance(value, Mapping):
        if [*value] == [_NUMBER] and str(value[_NUMBER]) in _NUMBERS:
            return _NUMBERS[str(value[_NUMBER])]
        return {k if isinstance(k, str) else str(index(k)): _param(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_param(one) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"{repr(value)[:60]} is not a value that JSON has")


Time = Annotated[int, Field(ge=0, lt=2**43)]  # until 2248
Step = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**53)]  # trackers keep these
Number = Annotated[float, BeforeValidator(_number), Field(strict=False)]
_Point = Annotated[tuple[Step, Number], Field(strict=False)]
Title = Annotated[
    str,
    _text(
        r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,250}", "a name: use one line of 1 to 250 characters"
    ),
]
Sha256 = Annotated[str, _text(r"[0-9a-f]{64}", "a SHA-256")]
RunId = Annotated[str, _text(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", "an id of a run")]
Tags = Annotated[Mapping[Title, str], AfterValidator(_tags)]
Params = Annotated[
    Mapping[Title, Any],
    BeforeValidator(_params),
    PlainSerializer(lambda values: strict_json(values, free=True), when_used="json"),
]
"""Values that JSON has, by name."""
Steps = Annotated[
    Mapping[Title, Annotated[list[Number], Field(strict=False)]], BeforeValidator(_values)
]
Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, config=_CONFIG)
class File:
    """A file of the record, by its name there."""

    name: str
    sha256: Sha256


ANY_FILE = File("any", "0" * 64)  # stands for a file until its content is known


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The data a run read."""

    name: str
    digest: str
    source: str


@dataclass(frozen=True, config=_CONFIG)
class RunStarted:
    """A run began."""

    id: RunId
    stage: Title
    time: Time
    host: str
    params: Params
    tags: Tags
    dataset: Dataset | None = None
    deps: Mapping[str, Sha256] = field(default_factory=dict)
    """Each dependency of the stage, by its path."""
    patch: File | None = None  # what the code differed by from its commit, as `git apply` takes it
    command: tuple[str, ...] = ()  # the program that runs, and its arguments
    number: Step = 1  # which run it is of those that one execution of its stage makes, from 1
    format: Literal[2] = FORMAT


@dataclass(frozen=True, config=_CONFIG)
class Resumed:
    """A run that had been stopped resumes from a checkpoint."""

    time: Time
    epoch: Step  # the last epoch of the checkpoint; later ones are computed again, to the same bits
    event: Literal["resumed"] = "resumed"


@dataclass(frozen=True, config=_CONFIG)
class Logged:
    """Something was logged at a step, an epoch for instance. Everything goes by a title."""

    time: Time
    step: Step
    metrics: Mapping[Title, Number] = field(default_factory=dict)
    steps: Steps = field(default_factory=dict)
    """A metric's values within the step: those of an epoch's batches."""
    images: Mapping[Title, File] = field(default_factory=dict)  # PNG files
    texts: Mapping[Title, File] = field(default_factory=dict)
    artifacts: Mapping[Title, File] = field(default_factory=dict)  # files, each by the name it had
    tags: Tags = field(default_factory=dict)
    event: Literal["logged"] = "logged"


@dataclass(frozen=True, config=_CONFIG)
class Observed:
    """What the machine did, or how fast the run went on it: shown, never compared."""

    time: Time
    values: Mapping[Title, Number]
    event: Literal["observed"] = "observed"


@dataclass(frozen=True, config=_CONFIG)
class ModelSaved:
    """The run wrote a model."""

    time: Time
    name: Title
    file: File
    filename: Annotated[Title, AfterValidator(_filename)]
    """What the file is called outside the record."""
    step: Step
    event: Literal["model"] = "model"


@dataclass(frozen=True, config=_CONFIG)
class ModelEvaluated:
    """A model that another run may have made was evaluated."""

    time: Time
    model: Title
    sha256: Sha256  # of the model's file
    metrics: Mapping[Title, Number]
    series: Mapping[Title, Annotated[list[_Point], Field(strict=False)]] = field(
        default_factory=dict
    )
    """The points of a curve, by its name."""
    config: Params = field(default_factory=dict)  # how it was built and trained
    embedding: File | None = None
    event: Literal["evaluated"] = "evaluated"


@dataclass(frozen=True, config=_CONFIG)
class RunEnded:
    """The run ended, well or badly."""

    time: Time
    status: Status
    message: str = ""
    traceback: str = ""
    changed: tuple[str, ...] = ()  # what the stage reads and was edited while the run went on
    outs: Mapping[str, Sha256] = field(default_factory=dict)
    """Each file and folder that a finished run wrote, by its path."""
    output: File | None = None  # what the program printed, where it was kept
    event: Literal["end"] = "end"


Event = RunStarted | Resumed | Logged | Observed | ModelSaved | ModelEvaluated | RunEnded


def fields_with_files(event: Event) -> list[tuple[str, File]]:
    """The files that an event names, each with the field that names it."""
    found = []
    for name, value in vars(event).items():
        values = value.values() if isinstance(value, Mapping) else [value]
        found += [(name, one) for one in values if isinstance(one, File)]
    return found


def files_of(event: Event) -> list[File]:
    """The files that an event names."""
    return [file for _, file in fields_with_files(event)]


T = TypeVar("T")
E = TypeVar("E", bound=Event)
_Line = Annotated[
    Resumed | Logged | Observed | ModelSaved | ModelEvaluated | RunEnded,
    Field(discriminator="event"),
]
_START: TypeAdapter[RunStarted] = TypeAdapter(RunStarted)
_LINE: TypeAdapter[_Line] = TypeAdapter(_Line, config=ConfigDict(ser_json_inf_nan="strings"))


class RecordRefused(Exception):
    """A record cannot be used; the message is one sentence for a person."""


def read_start(content: bytes) -> RunStarted:
    """The beginning of a run, from JSON.

    Raises:
        ValueError: it is not one; the message is a clause.
    """
    return _read(_START, content)


def read_line(content: bytes) -> Event:
    """A later event, from a line of JSON.

    Raises:
        ValueError: it is not one; the message is a clause.
    """
    return _read(_LINE, content)


def as_json(event: Event) -> bytes:
    """An event as JSON that can be read again: it is tried.

    Raises:
        ValueError: it cannot; the message is a clause.
    """
    start = isinstance(event, RunStarted)
    adapter: TypeAdapter[Any] = _START if start else _LINE
    content = adapter.dump_json(
        event, indent=2 if start else None, ensure_ascii=True, warnings="error"
    )
    _read(adapter, content)
    if len(content) >= MOST:
        raise ValueError(f"an event has {len(content)} bytes, more than {MOST}")
    return content + b"\n"


def _read(adapter: TypeAdapter[T], content: bytes) -> T:
    try:
        return adapter.validate_json(content, extra="ignore")
    except ValidationError as error:
        raise ValueError(_why(error)) from None


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def made(kind: type[E], **values: Any) -> E:
    """An event of what a script gives.

    Raises:
        UserError: it cannot be recorded.
    """
    try:
        return kind(**values)
    except (ValidationError, TypeError) as error:
        raise UserError(f"cannot record this: {printable(_why(error))}.") from None


def _why(error: ValidationError | TypeError) -> str:
    """What is wrong with an event, as a clause."""
    if isinstance(error, TypeError):
        return str(error)
    detail = error.errors(include_url=False)[0]
    named = ".".join(map(str, detail["loc"])) or "it"
    message = detail["msg"].removeprefix("Value error, ")
    given = f", not {redact(repr(detail['input']))}" if message.startswith("Input should") else ""
    return f"{named}: {message}{given}"[:_LONGEST_WHY]


def without_files(event: Event, names: Collection[str]) -> Event | None:
    """An event without the files of those names; None if it is about nothing but one of them."""
    bad = {name for name, file in fields_with_files(event) if file.name in names}
    if isinstance(event, ModelSaved):
        return None if bad else event
    changes: dict[str, Any] = dict.fromkeys(bad)
    if isinstance(event, Logged):
        for field in bad:
            files = getattr(event, field).items()
            changes[field] = {title: file for title, file in files if file.name not in names}
    return replace(event, **changes)
