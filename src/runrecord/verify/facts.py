"""A run as a mapping: all that came out of it, each thing in a place of its own.

The place of a value is (kind, title, step, index). The mapping holds, for each kind, title and
step, the list of values in the order in which they were logged: a value's index is its place in
that list. So a value that is logged twice has two places.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from runrecord.record.events import (
    Event,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Resumed,
    RunEnded,
    strict_json,
)
from runrecord.resume.identity import plain

Value = float | str
"""A number; or a text, which is the SHA-256 of a file, or a value of JSON."""


class Place(NamedTuple):
    """What a list of values is of."""

    kind: str
    title: str
    step: int | None
    """None for what belongs to the whole run, as what its stage wrote."""


Facts = Mapping[Place, list[Value]]

METRIC, WITHIN, EVALUATION = "metric", "value within a step", "evaluation"
NUMBERS = (METRIC, WITHIN, EVALUATION)
"""Kinds whose values are numbers."""
PICTURE, TEXT, ARTIFACT, MODEL = "picture", "text", "artifact", "model"
EMBEDDING, EVALUATED, OUT = "embedding", "evaluated model", "out"
FILES = (PICTURE, TEXT, ARTIFACT, MODEL, EMBEDDING, EVALUATED, OUT)
"""Kinds whose values are the SHA-256 of files and folders."""
FILENAME, CONFIG, STATUS = "file name of the model", "config of the evaluation", "status"
COUNT = "number of values within a step of"
_STATUS = Place(STATUS, "of the run", None)
RESULTS = (*NUMBERS, *FILES, COUNT, FILENAME, CONFIG, STATUS)
"""All that comes out of a run. Not tags, nor what the machine did, nor what the program printed."""


def results_in(events: Iterable[Event]) -> Facts:
    """All that came out of a run, from its events."""
    found: dict[Place, list[Value]] = {}

    def add(kind: str, title: str, step: int | None, *values: Value) -> None:
        found.setdefault(Place(kind, title, step), []).extend(values)

    for event in events:
        match event:
            case Logged():
                for title, number in event.metrics.items():
                    add(METRIC, title, event.step, float(number))
                for title, numbers in event.steps.items():
                    add(WITHIN, title, event.step, *map(float, numbers))
                    add(COUNT, title, event.step, str(len(numbers)))
                for kind, files in (
                    (PICTURE, event.images),
                    (TEXT, event.texts),
                    (ARTIFACT, event.artifacts),
                ):
                    for title, file in files.items():
                        add(kind, title, event.step, file.sha256)
            case ModelSaved():
                add(MODEL, event.name, event.step, event.file.sha256)
                add(FILENAME, event.name, event.step, event.filename)
            case ModelEvaluated():
                model = event.model.replace("~", "~0").replace("/", "~1")  # as a JSON pointer
                nth = len(found.get(Place(EVALUATED, model, None), ())) + 1
                add(EVALUATED, model, None, event.sha256)
                model += f" (evaluation {nth})" if nth > 1 else ""
                for title, number in event.metrics.items():
                    add(EVALUATION, f"{model}/{title}", 0, float(number))
                for title, points in event.series.items():
                    for x, y in points:
                        add(EVALUATION, f"{model}/{title}", x, float(y))
                for title, value in event.config.items():
                    add(CONFIG, f"{model}/{title}", None, as_text(value, exact=True))
                if event.embedding:
                    add(EMBEDDING, model, None, event.embedding.sha256)
            case Resumed():  # what was an end until then is none
                found.pop(_STATUS, None)
            case RunEnded():
                add(*_STATUS, event.status)
                for title, digest in event.outs.items():
                    add(OUT, title, None, digest)
    return found


def values_of(kind: str, values: Mapping[str, Any]) -> dict[Place, list[Value]]:
    """Params, tags or digests by their names, as facts of that kind."""
    return {Place(kind, name, None): [as_text(value)] for name, value in values.items()}


def as_text(value: Any, exact: bool = False) -> str:
    """A text as it is, any other value of JSON as its JSON: a number is not the text of it.

    Unless `exact`, 1.0 is 1, as DVC has params.
    """
    if isinstance(value, str):
        return value if not _looks_like_json(value) else json.dumps(value, ensure_ascii=False)
    meant = strict_json(value if exact else plain(value), free=True)
    return json.dumps(meant, ensure_ascii=False, sort_keys=True)


def _looks_like_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
