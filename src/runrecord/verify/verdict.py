"""The verdict on a run that was rebuilt: is it the one that the record, and MLflow, tell of?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runrecord.events import RunStarted
from runrecord.verify.audit import Discrepancy
from runrecord.verify.compare import Comparison, largest_of

Outcome = Literal["bit-identical", "equal within tolerance", "different", "cannot be rebuilt"]

STATUS: dict[Outcome, int] = {
    "bit-identical": 0,
    "equal within tolerance": 0,
    "different": 1,
    "cannot be rebuilt": 2,
}
"""The exit status by which a script tells them apart."""


@dataclass(frozen=True)
class Verdict:
    """A verdict, and why it is that."""

    outcome: Outcome
    why: str


def judge(start: RunStarted, rebuilt: Comparison, discrepancies: Sequence[Discrepancy]) -> Verdict:
    """The verdict on a run, from its comparison with the rebuilt one and from what MLflow shows.

    Metrics that agree within the tolerance only count as equal where something in the environment
    differs that can explain the rest, or where the run did not ask to be deterministic.
    """
    if discrepancies:
        return Verdict("different", _told(discrepancies[0]))
    if rebuilt.verdict == "bit-identical" and not rebuilt.pictures:
        return Verdict("bit-identical", "every metric at every step, and every file it wrote")
    largest = largest_of(rebuilt.metrics)
    by = f"metrics differ by at most {largest:.2g} of themselves (tolerance {rebuilt.tolerance:g})"
    where = _where(rebuilt)
    environment = sorted(rebuilt.environment.keys() - {"host"})
    undetermined = start.params.get("deterministic") is False
    if rebuilt.verdict != "different" and (environment or undetermined) and not _inputs(rebuilt):
        causes = ", ".join(environment) or "the run was not deterministic"
        return Verdict("equal within tolerance", f"{by}{where}; other here: {causes}")
    causes = ", ".join([*_inputs(rebuilt), *environment]) or "nothing that the record tells of"
    return Verdict("different", f"{by}{where}; possible cause: {causes}")


def _inputs(rebuilt: Comparison) -> list[str]:
    """What went in and should have been the same."""
    return [*rebuilt.code, *rebuilt.params, *rebuilt.data]


def _where(rebuilt: Comparison) -> str:
    """Where the runs part first."""
    if rebuilt.metrics:
        name, metric = min(
            rebuilt.metrics.items(), key=lambda item: (item[1].epoch, item[1].step or 0)
        )
        step = f", step {metric.step}" if metric.step is not None else ""
        return f", first {name} at {f'epoch {metric.epoch}{step}' if metric.epoch else 'its end'}"
    files = sorted(rebuilt.outs) or sorted(rebuilt.pictures)
    return f", but the bytes of {', '.join(files)} do" if files else ""


def _told(found: Discrepancy) -> str:
    step = f" at step {found.step}" if found.step is not None else ""
    return f"MLflow shows {found.name} = {found.shown}{step}, the run's record has {found.recorded}"
