"""Why two runs differ: what went into them, then what came out, then the verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from runrecord.events import File, RunStarted
from runrecord.record.reader import Record
from runrecord.record.schema import strict_json
from runrecord.run_view import RunView, Series, view

Equality = Literal["bit-identical", "equal within tolerance", "different"]
Pair = tuple[Any, Any]
"""A value in the first run and in the second; None where it has none."""

_NOT_ENVIRONMENT = ("git.", "dvc.")


@dataclass(frozen=True)
class MetricDifference:
    """Where and by how much a metric of two runs differs."""

    epoch: int
    """The first epoch in which it does; 0 for an evaluation's metric."""
    step: int | None
    """The first step of that epoch, from 1; None where there are no steps."""
    first: Pair
    """The values there."""
    last: Pair
    """The last epoch's means."""
    largest: float
    """The largest relative difference of an epoch's mean: |a - b| / max(|a|, |b|)."""


@dataclass(frozen=True)
class Comparison:
    """All that differs between two runs, and nothing else."""

    commits: Pair | None
    code: dict[str, Pair]
    """SHA-256 of each code file that differs, by its path."""
    params: dict[str, Pair]
    data: dict[str, Pair]
    environment: dict[str, Pair]
    metrics: dict[str, MetricDifference]
    model: Pair | None
    """SHA-256 of the models, if they differ."""
    outs: dict[str, Pair]
    """SHA-256 of what the stages wrote, by path, where both records have it and it differs."""
    pictures: dict[str, int]
    """The first epoch whose picture differs, by the picture's title; 0 for an evaluation's."""
    tolerance: float
    verdict: Equality

    def as_json(self) -> dict[str, Any]:
        """As values that JSON has."""
        return asdict(self)


def compare(
    first: Record, second: Record, tolerance: float, code: Sequence[str] = ()
) -> Comparison:
    """Compare two runs by their records.

    Args:
        first: one run.
        second: the other.
        tolerance: the largest relative difference of metrics that still counts as equal.
        code: files and folders that hold code, besides `.py` files; all else that was read is data.

    Raises:
        RecordRefused: a record is damaged.
    """
    runs = view(first), view(second)
    a, b = first.start, second.start
    model = runs[0].model, runs[1].model
    metrics = _metric_differences(runs[0].series, runs[1].series)
    outs = _outs(runs[0]), _outs(runs[1])
    common = outs[0].keys() & outs[1].keys()
    files = _differences(*({path: own[path] for path in common} for own in outs))
    return Comparison(
        commits=_pair(a.tags.get("git.commit"), b.tags.get("git.commit")),
        code=_differences(_code(a, code), _code(b, code)),
        params=_differences(a.params, b.params),
        data=_differences(_data(a, code), _data(b, code)),
        environment=_differences(_environment(a), _environment(b)),
        metrics=metrics,
        model=_pair(*model),
        outs=files,
        pictures=_first_steps(runs[0].images, runs[1].images),
        tolerance=tolerance,
        verdict=_verdict(metrics, bool(model[0] != model[1] or files), tolerance),
    )


def largest_of(metrics: Mapping[str, MetricDifference]) -> float:
    """The largest relative difference of any metric."""
    return max((metric.largest for metric in metrics.values()), default=0.0)


def _verdict(
    metrics: Mapping[str, MetricDifference], files_differ: bool, tolerance: float
) -> Equality:
    if not metrics and not files_differ:
        return "bit-identical"
    return "equal within tolerance" if largest_of(metrics) <= tolerance else "different"


def _code(start: RunStarted, code: Sequence[str]) -> dict[str, str]:
    return {path: digest for path, digest in start.deps.items() if _is_code(path, code)}


def _is_code(path: str, code: Sequence[str]) -> bool:
    return path.endswith(".py") or any(f"{path}/".startswith(f"{place}/") for place in code)


def _data(start: RunStarted, code: Sequence[str]) -> dict[str, str]:
    """What the run read besides code: the data set, models, histories."""
    read = {path: digest for path, digest in start.deps.items() if not _is_code(path, code)}
    own = {f"{start.dataset.name} (digest)": start.dataset.digest} if start.dataset else {}
    return read | own


def _environment(start: RunStarted) -> dict[str, str]:
    tags = {
        name: value for name, value in start.tags.items() if not name.startswith(_NOT_ENVIRONMENT)
    }
    return tags | {"host": start.host}


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    return {
        key: (first.get(key), second.get(key))
        for key in sorted(first.keys() | second.keys())
        if not _same(first.get(key), second.get(key))
    }


def _same(first: Any, second: Any) -> bool:
    """Are they equal? NaN is itself here, also inside."""
    return bool(first == second or strict_json(first, free=True) == strict_json(second, free=True))


def _pair(first: Any, second: Any) -> Pair | None:
    return None if first == second else (first, second)


def _outs(run: RunView) -> dict[str, str]:
    """SHA-256 of all that the run wrote and kept, by path or title."""
    kept = {title: file.sha256 for title, file in run.files.items()}
    kept |= {model.filename: model.file.sha256 for model in run.models}
    return {**kept, **(run.record.end.outs if run.record.end else {})}


def _first_steps(
    first: Mapping[tuple[str, int], File], second: Mapping[tuple[str, int], File]
) -> dict[str, int]:
    """The first step of each title whose pictures differ."""
    found: dict[str, int] = {}
    for title, step in sorted(first.keys() | second.keys(), key=lambda key: key[1]):
        if _digest(first.get((title, step))) != _digest(second.get((title, step))):
            found.setdefault(title, step)
    return found


def _digest(file: File | None) -> str | None:
    return file.sha256 if file else None


def _metric_differences(
    first: Mapping[str, Series], second: Mapping[str, Series]
) -> dict[str, MetricDifference]:
    names = sorted(first.keys() | second.keys())
    found = {name: _difference(first.get(name, {}), second.get(name, {})) for name in names}
    return {name: difference for name, difference in found.items() if difference is not None}


def _difference(first: Series, second: Series) -> MetricDifference | None:
    epochs = sorted(first.keys() | second.keys())
    different = [epoch for epoch in epochs if _differ(first.get(epoch), second.get(epoch))]
    if not different:
        return None
    epoch = different[0]
    step, values = _first_step(first.get(epoch), second.get(epoch))
    means = [(_mean(first, epoch), _mean(second, epoch)) for epoch in epochs]
    return MetricDifference(epoch, step, values, means[-1], max(_relative(a, b) for a, b in means))


def _first_step(
    first: tuple[float, list[float]] | None, second: tuple[float, list[float]] | None
) -> tuple[int | None, Pair]:
    """The first step at which an epoch differs, and the values there."""
    if first and second:
        for number, (a, b) in enumerate(zip(first[1], second[1], strict=False), start=1):
            if not _equal(a, b):
                return number, (a, b)
    return None, (first[0] if first else None, second[0] if second else None)


def _differ(
    first: tuple[float, list[float]] | None, second: tuple[float, list[float]] | None
) -> bool:
    if first is None or second is None:
        return True
    values = [first[0], *first[1]], [second[0], *second[1]]
    return len(values[0]) != len(values[1]) or not all(map(_equal, *values))


def _equal(first: float, second: float) -> bool:
    """Are they the same number? NaN is itself here."""
    return first == second or (first != first and second != second)


def _mean(series: Series, epoch: int) -> float | None:
    return series[epoch][0] if epoch in series else None


def _relative(first: float | None, second: float | None) -> float:
    if first is None or second is None:
        return math.inf
    if _equal(first, second):
        return 0.0
    largest = max(abs(first), abs(second))
    difference = abs(first - second) / largest
    return difference if math.isfinite(difference) else math.inf
