"""Why two runs differ: what went into them, then what came out, then the verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from runrecord.events import (
    EpochEnded,
    EvaluationEnded,
    Event,
    ModelSaved,
    Png,
    RunStarted,
)
from runrecord.record.reader import Record

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
    events = list(first.events()), list(second.events())
    a, b = first.start, second.start
    model = _models(events[0]), _models(events[1])
    metrics = _metric_differences(*events)
    outs = _outs(first), _outs(second)
    common = outs[0].keys() & outs[1].keys()
    pictures = _pictures(events[0]), _pictures(events[1])
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
        pictures=_first_epochs(*pictures),
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
    return read | {f"{start.dataset.name} (digest)": start.dataset.digest}


def _environment(start: RunStarted) -> dict[str, str]:
    tags = {
        name: value for name, value in start.tags.items() if not name.startswith(_NOT_ENVIRONMENT)
    }
    return tags | {"host": start.host}


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    return {
        key: (first.get(key), second.get(key))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    }


def _pair(first: Any, second: Any) -> Pair | None:
    return None if first == second else (first, second)


def _models(events: Iterable[Event]) -> str | None:
    digests = [event.sha256 for event in events if isinstance(event, ModelSaved)]
    return digests[-1] if digests else None


def _outs(record: Record) -> Mapping[str, str]:
    return record.end.outs if record.end else {}


def _pictures(events: Iterable[Event]) -> dict[tuple[str, int], Png]:
    """Every picture, by title and epoch."""
    found: dict[tuple[str, int], Png] = {}
    for event in events:
        if isinstance(event, EpochEnded):
            found |= {(title, event.epoch): image for title, image in event.images.items()}
        elif isinstance(event, EvaluationEnded):
            found |= {(title, 0): image for title, image in event.images.items()}
    return found


def _first_epochs(
    first: Mapping[tuple[str, int], Png], second: Mapping[tuple[str, int], Png]
) -> dict[str, int]:
    """The first epoch of each title whose pictures differ."""
    found: dict[str, int] = {}
    for title, epoch in sorted(first.keys() | second.keys(), key=lambda key: key[1]):
        if first.get((title, epoch)) != second.get((title, epoch)):
            found.setdefault(title, epoch)
    return found


def _metric_differences(first: list[Event], second: list[Event]) -> dict[str, MetricDifference]:
    series = series_of(first), series_of(second)
    names = sorted(series[0].keys() | series[1].keys())
    found = {name: _difference(series[0].get(name, {}), series[1].get(name, {})) for name in names}
    return {name: difference for name, difference in found.items() if difference is not None}


Series = dict[int, tuple[float, list[float]]]
"""A metric's mean and its value at each step, by epoch; an evaluation's metric is at epoch 0.

Of an evaluation's curves, the epoch is the point's x.
"""


def series_of(events: Iterable[Event]) -> dict[str, Series]:
    """Every metric that a run logged, by its name in MLflow."""
    series: dict[str, Series] = {}
    for event in events:
        if isinstance(event, EpochEnded):
            for name, mean in event.means.items():
                series.setdefault(name, {})[event.epoch] = mean, event.steps.get(name, [])
        elif isinstance(event, EvaluationEnded):
            for model, metrics in event.metrics.items():
                for name, value in metrics.items():
                    series[f"{model}/{name}"] = {0: (value, [])}
                for name, points in event.series.get(model, {}).items():
                    series[f"{model}/{name}"] = {x: (y, []) for x, y in points}
    return series


def _difference(first: Series, second: Series) -> MetricDifference | None:
    epochs = sorted(first.keys() | second.keys())
    different = [epoch for epoch in epochs if first.get(epoch) != second.get(epoch)]
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
            if a != b:
                return number, (a, b)
    return None, (first[0] if first else None, second[0] if second else None)


def _mean(series: Series, epoch: int) -> float | None:
    return series[epoch][0] if epoch in series else None


def _relative(first: float | None, second: float | None) -> float:
    if first is None or second is None:
        return float("inf")
    largest = max(abs(first), abs(second))
    return abs(first - second) / largest if largest else 0.0
