"""The folder format of a record, version 2: one schema, the events themselves; docs/records.md."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from runrecord.record.events import (
    NUMBER,
    Event,
    File,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Observed,
    Resumed,
    RunEnded,
    RunStarted,
)

FORMAT = 2
MOST = 2**28
"""Bytes of what is read as a whole: `run.json`, a line, a picture, a patch, an embedding."""
_LONGEST = 500  # characters of what is wrong with a record
START, EVENTS, PATCH = "run.json", "events.jsonl", "change.patch"
LOCK = "lock"
"""Held by the process that runs, while it runs; no part of the record."""

Files = Mapping[str, Path]
"""A record's files by their names in it, wherever they lie: in one folder, or in DVC's cache."""

T = TypeVar("T")

_Line = Annotated[
    Resumed | Logged | Observed | ModelSaved | ModelEvaluated | RunEnded,
    Field(discriminator="event"),
]
_START: TypeAdapter[RunStarted] = TypeAdapter(RunStarted)
_LINE: TypeAdapter[_Line] = TypeAdapter(_Line)


def without_files(event: Event, names: Collection[str]) -> Event | None:
    """An event without the files of those names; None if it is about nothing but one of them."""
    match event:
        case Logged():
            images, texts, artifacts = (
                {title: file for title, file in files.items() if file.name not in names}
                for files in (event.images, event.texts, event.artifacts)
            )
            return replace(event, images=images, texts=texts, artifacts=artifacts)
        case ModelSaved(file=file) if file.name in names:
            return None
        case ModelEvaluated(embedding=File() as file) if file.name in names:
            return replace(event, embedding=None)
        case RunEnded(output=File() as file) if file.name in names:
            return replace(event, output=None)
    return event


class RecordRefused(Exception):
    """A record cannot be used; the message is one sentence for a person."""


def read_start(content: bytes) -> RunStarted:
    """The beginning of a run, from JSON.

    Raises:
        ValueError: it is not as it should be; the message is a clause.
    """
    return _checked(_START, content)


def read_line(content: bytes) -> Event:
    """An event, from a line of JSON.

    Raises:
        ValueError: it is not as it should be; the message is a clause.
    """
    return _checked(_LINE, content)


def as_json(event: Event) -> bytes:
    """An event as JSON that can be read again: it is tried.

    Raises:
        ValueError: it holds what JSON or its own type has not; the message is a clause.
    """
    try:
        if isinstance(event, RunStarted):
            content = _dumps({"format": FORMAT, **asdict(event)}, indent=2)
            read_start(content)
        else:
            content = _dumps(_written_once(asdict(event)))
            read_line(content)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if len(content) >= MOST:
        raise ValueError(f"an event has {len(content)} bytes, more than {MOST}")
    return content + b"\n"


def strict_json(value: Any, free: bool = False) -> Any:
    """A value of JSON whose numbers all are: NaN and the infinities are texts.

    Where a text could be meant (`free`, as in params), they are objects that say what they are.
    """
    if isinstance(value, float) and not math.isfinite(value):
        text = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return {NUMBER: text} if free else text
    if isinstance(value, dict):
        return {key: strict_json(one, free) for key, one in value.items()}
    return [strict_json(one, free) for one in value] if isinstance(value, list | tuple) else value


def _dumps(document: dict[str, Any], indent: int | None = None) -> bytes:
    try:
        return json.dumps(document, indent=indent, allow_nan=False).encode()
    except ValueError:
        whole = {
            key: strict_json(value, free=key in ("params", "config"))
            for key, value in document.items()
        }
        return json.dumps(whole, indent=indent, allow_nan=False).encode()


def _written_once(document: dict[str, Any]) -> dict[str, Any]:
    """A list of values that another title of the line has too, as that title."""
    first: dict[str, str] = {}
    for title, values in document.get("steps", {}).items():
        written = json.dumps(values)
        if first.setdefault(written, title) != title:
            document["steps"][title] = first[written]
    return document


def _checked(adapter: TypeAdapter[T], content: bytes) -> T:
    try:
        return adapter.validate_json(content)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in detail["loc"]) or "it"
        message = detail["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place}: {message}"[:_LONGEST]) from None
