"""The folder format of a record, version 2: one schema, the events themselves; docs/records.md."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from runrecord.events import (
    Event,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Observed,
    Resumed,
    RunEnded,
    RunStarted,
)

FORMAT = 2
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
            content = json.dumps({"format": FORMAT, **asdict(event)}, indent=2).encode()
            read_start(content)
        else:
            content = json.dumps(_written_once(asdict(event))).encode()
            read_line(content)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return content + b"\n"


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
        raise ValueError(f"{place}: {message}") from None
