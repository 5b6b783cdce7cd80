"""The verdict on a run that was rebuilt: is it the one that the record, and MLflow, tell of?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runrecord.verify.compare import INPUTS, Comparison, Difference
from runrecord.verify.facts import FILES, METRIC, NUMBERS, OUT, WITHIN

Outcome = Literal["bit-identical", "equal within tolerance", "different", "cannot be rebuilt"]

STATUS: dict[Outcome, int] = {
    "bit-identical": 0,
    "equal within tolerance": 0,
    "different": 1,
    "cannot be rebuilt": 2,
}
"""The exit status by which a script tells them apart."""

_NAMED = 4  # causes, at most


@dataclass(frozen=True)
class Verdict:
    """A verdict, and why it is that."""

    outcome: Outcome
    why: str


def judge(
    rebuilt: Comparison, shown: Sequence[Difference] = (), unseen: Sequence[str] = ()
) -> Verdict:
    """The verdict on a run.

    Args:
        rebuilt: the run compared with the rebuilt one.
        shown: what MLflow shows otherwise than the run's record has it.
        unseen: outs that lie outside the repository or were written after the run had ended.
    """
    if shown:
        first = shown[0]
        own, other = value_text(first, False), value_text(first, True)
        why = f"MLflow shows {where(first)} = {other}, the run's record has {own}"
        return Verdict("different", why)
    if inputs := rebuilt.of(*INPUTS):
        names = _listed([f"{one.place.title} ({one.place.kind})" for one in inputs])
        out = f"; {how_unequal(rebuilt)}" if rebuilt.results else ""
        return Verdict("different", f"the rebuilt run had another {names}{out}")
    if not rebuilt.compared and not rebuilt.results:
        return Verdict("cannot be rebuilt", "there is nothing to compare: no metric, file or out")
    if rebuilt.verdict == "bit-identical":
        less = (
            f"; not compared, as outside the repository or written later: {_listed(unseen)}"
            if unseen
            else ""
        )
        why = f"every metric at every step, and every file it wrote{less}"
        return Verdict("bit-identical", why)
    causes = _listed(rebuilt.causes())
    if rebuilt.verdict == "equal within tolerance":
        return Verdict("equal within tolerance", f"{how_unequal(rebuilt)}; other here: {causes}")
    cause = causes or "nothing that the record tells of"
    return Verdict("different", f"{how_unequal(rebuilt)}; possible cause: {cause}")


def how_unequal(found: Comparison) -> str:
    """How many results differ, by how much, and where first: a clause."""
    results = found.results
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


def where(found: Difference) -> str:
    """What differs, as a person would call it."""
    kind, title, step = found.place
    name = title if kind in (METRIC, WITHIN) else f"the {kind} {title}"
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
    if found.state == "missing":
        return f"{where(found)} is missing"
    if found.state == "extra":
        return f"{where(found)} is extra"
    if found.place.kind in (*FILES, OUT):
        return f"the bytes of {where(found)}"
    return f"{where(found)}: {value_text(found, False)}, {value_text(found, True)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
