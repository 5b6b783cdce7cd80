"""The folder of a record, and its events as JSON: docs/runrecord/records.md."""

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from runrecord.record.events import FORMAT as FORMAT
from runrecord.record.events import (
    Event,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Observed,
    Resumed,
    RunEnded,
    RunStarted,
    fields_with_files,
)
from runrecord.record.events import strict_json as strict_json

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
_LINE: TypeAdapter[_Line] = TypeAdapter(_Line, config=ConfigDict(ser_json_inf_nan="strings"))
_FIELDS = {kind.__name__: [one.name for one in fields(kind)] for kind in get_args(Event)}


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
        raise ValueError(why(error)) from None


def why(error: Exception) -> str:
    """What is wrong with an event, as a clause."""
    if not isinstance(error, ValidationError):
        return str(error)
    detail = error.errors(include_url=False, include_input=False)[0]
    place = [*detail["loc"]]
    if place and isinstance(place[0], int) and error.title in _FIELDS:  # given by its position
        place[0] = _FIELDS[error.title][place[0]]
    named = ".".join(map(str, place)) or "it"
    return f"{named}: {detail['msg'].removeprefix('Value error, ')}"[:_LONGEST]


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
