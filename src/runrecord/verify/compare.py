"""Why two runs differ: one list of all that differs, over all that either of them has."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from runrecord.provenance.environment import is_environment
from runrecord.record.events import Logged, ModelEvaluated, RecordRefused, RunStarted, strict_json
from runrecord.record.reader import Record
from runrecord.safety.secrets import STRUCK
from runrecord.verify.facts import (
    FILES,
    NUMBERS,
    RESULTS,
    STATUS,
    Facts,
    Place,
    Value,
    results_in,
    values_of,
)

Equality = Literal["bit-identical", "equal within tolerance", "different"]

CODE, PARAM, DATA = "code", "param", "data"
INPUTS = (CODE, PARAM, DATA)
"""Kinds of what went into a run and decides what comes out."""
COMMIT, ENVIRONMENT, TAG = "commit", "environment", "tag"
_NOT_COMPARED = "git.", "dvc.", "study"


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


_RANKS = {kind: rank for rank, kind in enumerate((*INPUTS, *RESULTS))}


def _order(place: Place) -> tuple[Any, ...]:
    return place.step is None, place.step, _RANKS.get(place.kind, len(_RANKS)), place.title


@dataclass(frozen=True)
class Comparison:
    """All that differs between two runs, and how equal that makes their results."""

    all: tuple[Difference, ...]
    """What went in and what came out."""
    compared: int
    """How many results both have."""
    numbers: int
    """How many of these are numbers."""
    not_compared: tuple[str, ...]
    """What differs, or may, and does not count: a clause each."""
    tolerance: float
    """The largest relative difference of two numbers that can count as equal."""
    number_steps: frozenset[int | None]
    """The steps at which a run has numbers."""

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
        numbers differ or, where there are no numbers at that step, in a run whose numbers do.
        """
        if not self.results:
            return "bit-identical"
        both = all(one.state == "differs" for one in self.results)
        close = both and self.numbers and self.largest <= self.tolerance
        explained = close and self.causes() and not self.unexplained()
        return "equal within tolerance" if explained else "different"

    def causes(self) -> list[str]:
        """What of the environment differs. What one record does not tell is not known to differ.

        A variable that is not on record was not set.
        """
        return sorted(
            one.place.title
            for one in self.of(ENVIRONMENT)
            if one.state == "differs" or one.place.title.startswith("env.")
        )

    def unexplained(self) -> list[Difference]:
        """The files and texts that differ where no number does."""
        steps = {one.place.step for one in self.of(*NUMBERS)}
        equal = self.number_steps - steps
        return [
            one
            for one in self.results
            if one.place.kind not in NUMBERS
            and not (one.place.kind in FILES and steps and one.place.step not in equal)
        ]

    def as_json(self) -> dict[str, Any]:
        """As values that JSON has."""
        named = ("index", "state", "first", "second")
        listed = [
            one.place._asdict() | {name: getattr(one, name) for name in named} for one in self.all
        ]
        own = ("verdict", "largest", "tolerance", "compared", "numbers")
        found = {name: getattr(self, name) for name in own}
        found |= {"not_compared": [*self.not_compared], "differences": listed}
        return {key: strict_json(value) for key, value in found.items()}


def compare(
    first: Record,
    second: Record,
    tolerance: float,
    code: Sequence[str] = (),
    packages: Iterable[str] = (),
) -> Comparison:
    """Compare two runs by their records.

    Args:
        first: one run.
        second: the other.
        tolerance: the largest relative difference of numbers that can still count as equal.
        code: files and folders that hold code, besides `.py` files; all else that was read is data.
        packages: whose versions are part of the environment.

    Raises:
        RecordRefused: a record is damaged.
    """
    results = [results_in(record.events(files=False)) for record in (first, second)]
    shared = [
        (place.kind, min(len(values), len(results[1].get(place, ()))))
        for place, values in results[0].items()
    ]
    went_in = [_went_in(record.start, code, frozenset(packages)) for record in (first, second)]
    return Comparison(
        all=(*differences(*went_in), *differences(*results)),
        compared=sum(count for kind, count in shared if kind != STATUS),
        numbers=sum(count for kind, count in shared if kind in NUMBERS),
        not_compared=tuple(_not_compared(first, second)),
        tolerance=tolerance,
        number_steps=frozenset(
            place.step for found in results for place in found if place.kind in NUMBERS
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
    return {
        **values_of(COMMIT, {"commit": commit} if commit else {}),
        **values_of(CODE, {p: d for p, d in start.deps.items() if _is_code(p, code)}),
        **values_of(PARAM, start.params),
        **values_of(DATA, data),
        **values_of(ENVIRONMENT, environment),
        **values_of(TAG, {n: tags[n] for n in tags if n not in environment} | {"host": start.host}),
    }


def _is_code(path: str, code: Sequence[str]) -> bool:
    return path.endswith(".py") or any(f"{path}/".startswith(f"{place}/") for place in code)


def _not_compared(*records: Record) -> Iterator[str]:
    """What a person might think was compared."""
    params = [record.start.params for record in records]
    both = params[0].keys() & params[1].keys()
    if hidden := sorted(name for name in both if any(STRUCK in str(one[name]) for one in params)):
        yield f"params that are secret ({', '.join(hidden)})"
    if struck := sorted({name for record in records for name in _struck(record)}):
        yield f"what is struck out as secret in {', '.join(struck)}"
    ends = [record.end for record in records]
    if len({end.output.sha256 if end and end.output else None for end in ends}) > 1:
        yield "what the program printed, which differs"


def _struck(record: Record) -> Iterator[str]:
    """Texts and configs in which something secret was struck out."""
    for event in record.events(files=False):
        if isinstance(event, Logged):
            for title, file in event.texts.items():
                with suppress(RecordRefused):
                    if STRUCK.encode() in record.read(file.name):
                        yield f"the text {title}"
        elif isinstance(event, ModelEvaluated) and STRUCK in str(event.config):
            yield f"the config of {event.model}"
