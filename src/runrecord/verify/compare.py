"""Two runs as one list of all that differs, over all that either has; and how equal that is.

A run is a mapping of all that came out of it: for each `Place` the list of values in the order in
which they were logged. A value's index is its place in that list: one logged twice has two.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from runrecord.provenance.environment import is_environment
from runrecord.record.events import (
    Event,
    Logged,
    ModelEvaluated,
    ModelSaved,
    RecordRefused,
    Resumed,
    RunEnded,
    RunStarted,
    strict_json,
)
from runrecord.record.reader import Record
from runrecord.resume.identity import plain
from runrecord.safety.secrets import STRUCK

Value = float | str  # a number; or a text: the SHA-256 of a file, or a value of JSON


class Place(NamedTuple):
    """What a list of values is of."""

    kind: str
    title: str
    step: int | None  # None for what belongs to the whole run, as what its stage wrote
    number: int = 1  # of the evaluation of that model


Facts = Mapping[Place, list[Value]]

METRIC, WITHIN, EVALUATION = "metric", "value within a step", "evaluation"
NUMBERS = (METRIC, WITHIN, EVALUATION)
PICTURE, TEXT, ARTIFACT, MODEL = "picture", "text", "artifact", "model"
EMBEDDING, EVALUATED, OUT = "embedding", "evaluated model", "out"
FILES = (PICTURE, TEXT, ARTIFACT, MODEL, EMBEDDING, EVALUATED, OUT)  # values are their SHA-256
FILENAME, SUFFIX = "file name of the model", "suffix of the artifact"
CONFIG, STATUS = "config of the evaluation", "status"
COUNT, POINTS = "number of values within a step of", "number of points of the curve"
_STATUS = Place(STATUS, "of the run", None)
DAMAGED = "file of the record"
RESULTS = (*NUMBERS, *FILES, COUNT, POINTS, FILENAME, SUFFIX, CONFIG, STATUS, DAMAGED)
"""All that comes out of a run. Not tags, nor what the machine did, nor what the program printed."""
CODE, PARAM, DATA = "code", "param", "data"
INPUTS = (CODE, PARAM, DATA)  # what decides what comes out
COMMIT, ENVIRONMENT, TAG = "commit", "environment", "tag"
TITLES = {
    "Commits": (COMMIT,),
    "Code": (CODE,),
    "Params": (PARAM,),
    "Data": (DATA,),
    "Environment": (ENVIRONMENT,),
    "Tags, which are not compared": (TAG,),
    "Results": RESULTS,
}
"""The tables that a person sees of two runs, and what is in each."""
_RANKS = {kind: rank for rank, kind in enumerate((*INPUTS, *RESULTS))}
_NOT_COMPARED = "git.", "dvc.", "study"

Equality = Literal["bit-identical", "equal within tolerance", "different", "nothing to compare"]


def results_in(events: Iterable[Event]) -> Facts:
    """All that came out of a run, from its events."""
    found: dict[Place, list[Value]] = {}

    def add(kind: str, title: str, step: int | None, *values: Value, nth: int = 1) -> None:
        found.setdefault(Place(kind, title, step, nth), []).extend(values)

    for event in events:
        match event:
            case Logged():
                for title, number in event.metrics.items():
                    add(METRIC, title, event.step, float(number))
                for title, numbers in event.steps.items():
                    add(WITHIN, title, event.step, *map(float, numbers))
                    add(COUNT, title, event.step, str(len(numbers)))
                files = {PICTURE: event.images, TEXT: event.texts, ARTIFACT: event.artifacts}
                for kind, named in files.items():
                    for title, file in named.items():
                        add(kind, title, event.step, file.sha256)
                        if kind == ARTIFACT:
                            add(SUFFIX, title, event.step, PurePath(file.name).suffix)
            case ModelSaved():
                add(MODEL, event.name, event.step, event.file.sha256)
                add(FILENAME, event.name, event.step, event.filename)
            case ModelEvaluated():
                model = event.model.replace("~", "~0").replace("/", "~1")  # as a JSON pointer
                nth = len(found.get(Place(EVALUATED, model, None), ())) + 1
                add(EVALUATED, model, None, event.sha256)
                for title, number in event.metrics.items():
                    add(EVALUATION, f"{model}/{title}", 0, float(number), nth=nth)
                for title, points in event.series.items():
                    add(POINTS, f"{model}/{title}", None, str(len(points)), nth=nth)
                    for x, y in points:
                        add(EVALUATION, f"{model}/{title}", x, float(y), nth=nth)
                for title, value in event.config.items():
                    add(CONFIG, f"{model}/{title}", None, _as_text(value), nth=nth)
                if event.embedding:
                    add(EMBEDDING, model, None, event.embedding.sha256, nth=nth)
            case Resumed():  # what was an end until then is none
                found.pop(_STATUS, None)
            case RunEnded():
                ended = ": ".join(filter(None, [event.status, event.message]))
                found.setdefault(_STATUS, []).append(ended)
                for title, digest in event.outs.items():
                    add(OUT, title, None, digest)
    return found


def _as_text(value: Any) -> str:
    """A text as it is, any other value of JSON as its JSON: a number is not the text of it."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            return value
    return json.dumps(strict_json(value, free=True), ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that two runs do not share: in both and different, or in one of them alone."""

    place: Place
    index: int
    first: Value | None
    second: Value | None

    @property
    def state(self) -> Literal["differs", "missing", "extra"]:
        """`missing`: only the first run has it; `extra`: only the second."""
        if self.second is None:
            return "missing"
        return "extra" if self.first is None else "differs"

    @property
    def relative(self) -> float:
        """|a - b| / max(|a|, |b|) of two numbers; infinite for all else."""
        a, b = self.first, self.second
        if not (isinstance(a, float) and isinstance(b, float)):
            return math.inf
        largest = max(abs(a), abs(b))
        difference = abs(a - b) / largest if largest else 0.0
        return difference if math.isfinite(difference) else math.inf


def differences(first: Facts, second: Facts) -> Iterator[Difference]:
    """All that differs, over the union of what both have: by step, what has none last."""
    for place in sorted(first.keys() | second.keys(), key=_order):
        pairs = zip_longest(first.get(place, ()), second.get(place, ()))
        for index, (a, b) in enumerate(pairs):
            if a is None or b is None or not same(a, b):
                yield Difference(place, index, a, b)


def same(first: Value, second: Value) -> bool:
    """Are they the same to the last bit? NaN is itself; 0.0 is not -0.0."""
    if isinstance(first, float) and isinstance(second, float):
        return first.hex() == second.hex()
    return first == second


def _order(place: Place) -> tuple[Any, ...]:
    return place.step is None, place.step, _RANKS.get(place.kind, 99), place.title, place.number


@dataclass(frozen=True)
class Comparison:
    """All that differs between two runs, and how equal that makes their results."""

    all: tuple[Difference, ...]  # of what went in and what came out
    compared: int  # results that both have
    numbers: int  # of these
    not_compared: tuple[str, ...]  # what differs, or may, and does not count: a clause each
    tolerance: float  # the largest relative difference of two numbers that can count as equal
    stepless: frozenset[int | None]  # what files have that were given no step; 0 if no number has

    def of(self, *kinds: str) -> list[Difference]:
        """What differs of those kinds."""
        return [one for one in self.all if one.place.kind in kinds]

    @property
    def results(self) -> list[Difference]:
        """What differs of what came out."""
        return self.of(*RESULTS)

    @property
    def largest(self) -> float:
        """The largest relative difference of two numbers."""
        return max((one.relative for one in self.of(*NUMBERS)), default=0.0)

    @property
    def verdict(self) -> Equality:
        """How equal the results are.

        *Equal within tolerance* needs numbers that were compared and agree within the tolerance,
        an environment that differs, and files that differ only where numbers do: at a step whose
        numbers differ or, of files without a step, in a run whose numbers do.
        """
        if not self.results:
            return "bit-identical" if self.compared else "nothing to compare"
        both = all(one.state == "differs" for one in self.results)
        close = both and self.numbers and self.largest <= self.tolerance
        explained = close and self.causes() and not self.unexplained()
        return "equal within tolerance" if explained else "different"

    def causes(self) -> list[str]:
        """What of the environment differs; what one record does not tell, variables alone do."""
        return sorted(
            one.place.title
            for one in self.of(ENVIRONMENT)
            if one.state == "differs" or one.place.title.startswith("env.")
        )

    def unexplained(self) -> list[Difference]:
        """The files and texts that differ where no number does."""
        steps = {one.place.step for one in self.of(METRIC, WITHIN)}
        steps |= self.stepless if self.of(*NUMBERS) else set()
        return [
            one
            for one in self.results
            if one.place.kind not in NUMBERS
            and not (one.place.kind in FILES and one.place.step in steps)
        ]

    def as_json(self) -> dict[str, Any]:
        """As values that JSON has."""
        named = ("index", "state", "first", "second")
        listed = [
            one.place._asdict() | {name: getattr(one, name) for name in named} for one in self.all
        ]
        own = ("verdict", "largest", "tolerance", "compared", "numbers", "not_compared")
        return {name: getattr(self, name) for name in own} | {"differences": listed}


def compare(
    first: Record,
    second: Record,
    tolerance: float,
    code: Sequence[str] = (),
    packages: Iterable[str] = (),
) -> Comparison:
    """Compare two runs by what their records say, and look at the files of these.

    `code` are files and folders that hold code, besides `.py` files: all else that was read is
    data. The versions of `packages` are part of the environment.

    Raises:
        RecordRefused: a record cannot be used.
    """
    results = [dict(results_in(record.events(files=False))) for record in (first, second)]
    both = [(at.kind, min(len(it), len(results[1].get(at, [])))) for at, it in results[0].items()]
    for record, (mine, other) in ((first, results), (second, results[::-1])):
        for _ in record.events():  # which notes what is damaged
            pass
        for name, why in record.damaged.items():
            place = Place(DAMAGED, f"{name} of {record.start.id}", None)
            mine[place], other[place] = [why], ["as it was logged"]
    went_in = [_went_in(record.start, code, frozenset(packages)) for record in (first, second)]
    return Comparison(
        all=(*differences(*went_in), *differences(*results)),
        compared=sum(count for kind, count in both if kind != STATUS),
        numbers=sum(count for kind, count in both if kind in NUMBERS),
        not_compared=tuple(_not_compared(first, second)),
        tolerance=tolerance,
        stepless=frozenset(
            {None, 0} - {one.step for had in results for one in had if one.kind in (METRIC, WITHIN)}
        ),
    )


def _went_in(start: RunStarted, code: Sequence[str], packages: frozenset[str]) -> Facts:
    """What went into a run: code, params and data; the environment; what else tags say."""
    tags = {name: text for name, text in start.tags.items() if not name.startswith(_NOT_COMPARED)}
    environment = {name: text for name, text in tags.items() if is_environment(name, packages)}
    data = {path: digest for path, digest in start.deps.items() if not _is_code(path, code)}
    if start.dataset:
        data[f"{start.dataset.name} (digest)"] = start.dataset.digest
    commit = start.tags.get("git.commit")
    kinds: dict[str, Mapping[str, Any]] = {
        COMMIT: {"commit": commit} if commit else {},
        CODE: {path: start.deps[path] for path in start.deps.keys() - data.keys()},
        PARAM: start.params,
        DATA: data,
        ENVIRONMENT: environment,
        TAG: {name: tags[name] for name in tags.keys() - environment.keys()} | {"host": start.host},
    }
    return {
        Place(kind, name, None): [_as_text(plain(value))]  # 1.0 is 1, as DVC has params
        for kind, values in kinds.items()
        for name, value in values.items()
    }


def _is_code(path: str, code: Sequence[str]) -> bool:
    return path.endswith(".py") or any(f"{path}/".startswith(f"{place}/") for place in code)


def _not_compared(*records: Record) -> Iterator[str]:
    """What a person might think was compared."""
    if struck := sorted({name for record in records for name in _struck(record)}):
        yield f"what is struck out as secret in {', '.join(struck)}"
    ends = [record.end for record in records]
    if any(end is None or end.status != "FINISHED" for end in ends):
        yield "outs, which are recorded of runs that finish"
    if len({end.output.sha256 if end and end.output else None for end in ends}) > 1:
        yield "what the program printed, which differs"


def _struck(record: Record) -> Iterator[str]:
    """Params, digests, texts and configs in which something secret was struck out."""
    for name, value in record.start.params.items():
        if STRUCK in str(value):
            yield f"the param {name}"
    if (data := record.start.dataset) and STRUCK in f"{data.name} {data.digest}":
        yield f"the digest of {data.name}"
    for event in record.events(files=False):
        if isinstance(event, Logged):
            for title, file in event.texts.items():
                with suppress(RecordRefused):
                    if STRUCK.encode() in record.read(file.name):
                        yield f"the text {title}"
        elif isinstance(event, ModelEvaluated) and STRUCK in str(event.config):
            yield f"the config of {event.model}"


def how_equal(found: Comparison) -> str:
    """That nothing differs, or how many results, by how much, and where first: a clause."""
    results = found.results
    if not results:
        equal = "every metric at every step, and what it wrote"
        return equal if found.compared else "neither has a metric, file or out"
    parts = [f"{len(results)} results differ, first {_what(results[0])}"]
    if found.of(*NUMBERS):
        parts.append(
            f"the largest relative difference is {found.largest:.2g} (tolerance "
            f"{found.tolerance:g})"
        )
    rest = [one for one in results if one.place.kind not in NUMBERS]
    if found.numbers and not found.of(*NUMBERS):
        parts.append(f"all {found.numbers} numbers are equal")
    elif rest and results[0] not in rest:
        parts.append(f"of files and texts first {_what(rest[0])}")
    return "; ".join(parts)


def table_of(
    names: tuple[str, str], found: Iterable[Difference]
) -> tuple[list[tuple[object, ...]], tuple[str, ...]]:
    """A row for each place that differs, whatever the step: where first, in how many values."""
    groups: dict[Place, list[Difference]] = {}
    for one in found:
        groups.setdefault(one.place._replace(step=None), []).append(one)
    rows = list[tuple[str, str, str, int, str]]()
    for place in sorted(groups):
        group, first = groups[place], groups[place][0]
        name = where(first) if place.kind in RESULTS else place.title
        largest = max(one.relative for one in group)
        relative = f"{largest:.2g}" if isinstance(first.first, float) else ""
        rows.append((name, value_text(first, False), value_text(first, True), len(group), relative))
    heads = ("", *names, "values that differ", "largest, relative")
    counted = any(count > 1 or relative for *_, count, relative in rows)
    width = len(heads) if counted else 3
    return [row[:width] for row in rows], heads[:width]


def where(found: Difference) -> str:
    """What differs, as a person would call it."""
    kind, title, step, number = found.place
    name = title if kind in (METRIC, WITHIN) else f"the {kind} {title}"
    name += f" (evaluation {number})" if number > 1 else ""
    parts = [name if step is None else f"{name} at step {step}"]
    if kind == WITHIN:
        parts.append(f"value {found.index + 1}")
    elif found.index:
        parts.append(f"logged {found.index + 1} times")
    return ", ".join(parts)


def value_text(found: Difference, second: bool) -> str:
    """One of the values: a hash by its beginning, all else whole; `-` where there is none."""
    value = found.second if second else found.first
    if value is None:
        return "-"
    if isinstance(value, float):
        return repr(value)
    is_hash = len(value) in (40, 64) and set(value) <= set("0123456789abcdef")
    return value[:12] if is_hash else value


def _what(found: Difference) -> str:
    if found.state != "differs":
        return f"{where(found)} is {found.state}"
    if found.place.kind in (*FILES, OUT):
        return f"the bytes of {where(found)}"
    return f"{where(found)}: {value_text(found, False)}, {value_text(found, True)}"
