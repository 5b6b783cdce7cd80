"""Which run is better, and whether seed-to-seed variation could explain the difference."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import variance

from runrecord.project import Project
from runrecord.record.events import RunStarted
from runrecord.record.reader import EVALUATION

_FEW = 12  # metrics to judge by, where the project says of none which way is better
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t at 97.5 % by the degrees of freedom from 1 on; with more, the last is too careful."""


@dataclass(frozen=True)
class Spread:
    """Of one metric."""

    deviation: float
    """The standard deviation over seeds."""
    freedom: int
    """Its degrees of freedom: how well it is known."""
    source: str
    """Where it was found."""

    @property
    def by_chance(self) -> float:
        """Two runs that differ by their seed alone are further apart in 1 of 20 cases."""
        quantile = _STUDENT[min(self.freedom, len(_STUDENT)) - 1]
        return math.sqrt(2) * quantile * self.deviation


@dataclass(frozen=True)
class Row:
    """A line of a table: a value a run, the best ones marked."""

    name: str
    values: Sequence[str]
    best: Sequence[bool] = ()
    way: str = ""
    """Which way is better, if that is known."""
    spread: str = ""
    ahead: str = ""
    """By how much the best one is better than the next."""
    more_than_seeds: bool | None = None
    """Is that more than seed-to-seed variation? None where the spread is not known."""


def apart_from_seed(start: RunStarted, project: Project) -> str:
    """What runs have in common that differ by their seed alone."""
    params = {name: value for name, value in start.params.items() if not _is_seed(name, project)}
    return json.dumps([start.stage, params, dict(start.deps)], sort_keys=True)


def _is_seed(param: str, project: Project) -> bool:
    return re.split(r"[.:]", param)[-1] in project.seeds


def spreads(
    stage: str, runs: Iterable[tuple[RunStarted, Mapping[str, float]]], project: Project
) -> dict[str, Spread]:
    """The spread of each metric over seeds, pooled over what else the runs have in common.

    Where fewer seeds were tried than for the project's, that counts, if a run is as in `spread_of`.
    """
    wanted = project.spread_of.get(stage, {}).items()
    told = not wanted
    groups: dict[str, dict[str, Mapping[str, float]]] = defaultdict(dict)
    for start, metrics in runs:
        seeds = {name: one for name, one in start.params.items() if _is_seed(name, project)}
        groups[apart_from_seed(start, project)][json.dumps(seeds)] = metrics
        digest = start.dataset and start.dataset.digest
        told |= wanted <= {**start.params, "data set": digest}.items()
    found = {
        name: Spread(deviation, project.spread_runs - 1, "the project's default params")
        for name, deviation in project.spread.get(stage, {}).items()
        if told
    }
    for name in {name for group in groups.values() for own in group.values() for name in own}:
        columns = (
            [own[name] for own in group.values() if name in own] for group in groups.values()
        )
        several = [one for one in columns if len(one) > 1 and all(map(math.isfinite, one))]
        freedom = sum(len(values) - 1 for values in several)
        if several and (name not in found or freedom >= found[name].freedom):
            squares = sum((len(values) - 1) * variance(values) for values in several)
            deviation = math.sqrt(squares / freedom)
            found[name] = Spread(deviation, freedom, f"of {freedom + len(several)} runs")
    return found


def main_metrics(metrics: Sequence[Mapping[str, float]], project: Project) -> list[str]:
    """The metrics to judge by: the project's, else those of which it knows a way, else some."""
    there = dict.fromkeys(name for own in metrics for name in own)
    named = [name for one in project.headline for name in there if f"/{name}".endswith(f"/{one}")]
    return named or [name for name in there if project.way_of(name)] or [*there][:_FEW]


def judged(
    row: Row, runs: Sequence[Mapping[str, float]], project: Project, spread: Spread | None
) -> Row:
    """The row of a metric, its best values marked where there is something to choose."""
    way = project.way_of(row.name)
    values = [metrics.get(row.name) for metrics in runs]
    known = sorted(value for value in values if value is not None and value == value)  # no NaN
    measured = f"± {spread.deviation:.2g} ({spread.source})" if spread else ""
    row = replace(row, way=way or "", spread=measured)
    if len(set(known)) < 2 or way is None:
        return row
    best, after = (known[-1], known[-2]) if way == "higher" else (known[0], known[1])
    row = replace(row, best=[value == best for value in values])
    difference = abs(best - after)
    if not difference:
        return row  # two are the best
    if spread is None:
        return replace(row, ahead=f"{difference:.3g}")
    times = difference / spread.deviation if spread.deviation else math.inf
    ahead = f"{difference:.3g}, {times:.{0 if times > 10 else 1}f} times the spread"
    return replace(row, ahead=ahead, more_than_seeds=difference > spread.by_chance)


def answers(labels: Sequence[str], main: Sequence[Row]) -> list[str]:
    """Sentences: which run is better in what, by more than seed-to-seed variation."""
    won: dict[str, list[str]] = {}
    for row in main:
        if row.more_than_seeds:
            won.setdefault(labels[list(row.best).index(True)], []).append(_short(row))
    found = [
        f"{label} is better in {', '.join(names)}, by more than seed-to-seed variation."
        for label, names in won.items()
    ]
    which = "the difference" if len(labels) == 2 else "the difference between the best two"
    if close := [_short(row) for row in main if row.more_than_seeds is False]:
        found.append(f"Seed-to-seed variation could explain {which} in {', '.join(close)}.")
    if unknown := [_short(row) for row in main if row.ahead and row.more_than_seeds is None]:
        found.append(
            f"The seed-to-seed variation of {', '.join(unknown)} is not known: run the same with "
            "two other seeds."
        )
    if found:
        return found
    if any(row.way for row in main):
        return ["In no main metric is one run better than all others."]
    return ["Which way these metrics are better is not known; the project's `better` can say it."]


def _short(row: Row) -> str:
    return row.name.removeprefix(EVALUATION)
