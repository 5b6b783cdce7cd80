"""`runrecord verify RUN`: rebuild a run, and prove it equal."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.table import Table

from runrecord.cli.compare import difference_table, show_differences
from runrecord.cli.console import add_row, page
from runrecord.cli.runs import find_records
from runrecord.errors import UserError
from runrecord.project import load_project, repo_root
from runrecord.record.events import RecordRefused, RunStarted
from runrecord.record.reader import Record, view
from runrecord.run.process import raise_on_signals
from runrecord.safety.text import printable, shown
from runrecord.store.runs import host, was_run_here
from runrecord.trackers.mlflow.audit import is_of_origin
from runrecord.trackers.player import Store, has_store
from runrecord.verify.compare import (
    INPUTS,
    Comparison,
    Difference,
    compare,
    how_unequal,
    value_text,
    where,
)
from runrecord.verify.rebuild import CannotRebuild, rebuild, scratch

Outcome = Literal["bit-identical", "equal within tolerance", "different", "cannot be rebuilt"]
_STATUS: dict[Outcome, int] = {"different": 1, "cannot be rebuilt": 2}  # for scripts; else 0
_NAMED = 4  # causes, at most


@dataclass(frozen=True)
class Verdict:
    """A verdict, and why it is that."""

    outcome: Outcome
    why: str


def verify(name: str, tolerance: float, own_packages: bool, trusted: bool) -> int:
    """Rebuild every run that goes by `name`, and print and tag the verdict on each.

    Returns the worst exit status: 0 equal, 1 different, 2 cannot be rebuilt. With `own_packages`,
    the virtual environment is rebuilt too. A change that was never run here is asked about, unless
    it is `trusted`.

    Raises:
        UserError: there is no such run, or its change is not trusted.
    """
    raise_on_signals()
    root = repo_root()
    store: Store | None = None
    with _only_warned():
        store = Store(root) if has_store(root) else None
    try:
        records = find_records(root, name)
    except UserError as error:
        with _only_warned():  # MLflow may show a run of that name or id
            if store and (found := store.find(name)):
                _tag(store, found[0], Verdict("cannot be rebuilt", str(error)), "")
        raise
    for record in records:
        if record.start.patch and not (trusted or was_run_here(root, record.patch())):
            _ask(record)
    return max(_verify(root, record, store, tolerance, own_packages) for record in records)


def _verify(
    root: Path, record: Record, store: Store | None, tolerance: float, own_packages: bool
) -> int:
    """Rebuild one run, print what came out and tag it; the exit status of the verdict."""
    start, began = record.start, time.monotonic()
    print(f"rebuilding {start.id}", file=sys.stderr)
    again: RunStarted | None = None
    comparison: Comparison | None = None
    commit = start.tags.get("git.commit", "")
    discrepancies: list[Difference] | None = None  # what MLflow shows otherwise; None: not seen
    try:
        with _only_warned():
            discrepancies = store.differences(record) if store else None
        if record.end is None or record.end.status != "FINISHED":
            became = record.end.status if record.end else "cut off"
            raise CannotRebuild(
                f"it did not finish: it was {became} at step {view(record).last_step()}"
            )
        with scratch(root) as folder:
            rebuilt = rebuild(root, record, folder, own_packages)
            commit = rebuilt.commit
            if rebuilt.record:
                project, again = load_project(root), rebuilt.record.start
                given = tolerance, project.code, project.packages
                comparison = compare(record, rebuilt.record, *given)
                found = _judge(comparison, discrepancies or [], rebuilt.unseen)
            else:
                found = Verdict(
                    "different",
                    f"it was run {start.number} of its stage, which leaves {rebuilt.count} here",
                )
    except CannotRebuild as error:
        found = Verdict("cannot be rebuilt", str(error))
    except RecordRefused as error:
        found = Verdict("cannot be rebuilt", f"its record cannot be used: {error}")
    console = page()
    if comparison:
        show_differences(console, (start.id, "rebuilt"), comparison)
    if discrepancies:
        console.print(difference_table("MLflow", ("record", "MLflow"), discrepancies))
    environment = _environment(again) if again else ""
    mlflow = "shows other values" if discrepancies else "shows what the record says"
    table = Table(show_header=False)
    add_row(table, "run", start.id)
    add_row(table, "made from", _made_from(record, commit))
    add_row(table, "rebuilt on", environment or "-")
    add_row(table, "its record", record.damage() or ("whole" if comparison else "-"))
    add_row(table, "MLflow", "does not show this run here" if discrepancies is None else mlflow)
    add_row(table, "took", f"{time.monotonic() - began:.0f} s")
    console.print(table)
    console.print(f"Verdict: {found.outcome}: {printable(found.why).removesuffix('.')}.")
    if any(map(is_of_origin, discrepancies or ())):
        print("MLflow shows another run under this name: it is not tagged.", file=sys.stderr)
    else:
        _tag(store, start.id, found, environment)
    return _STATUS.get(found.outcome, 0)


def _judge(
    rebuilt: Comparison, shown: Sequence[Difference] = (), unseen: Sequence[str] = ()
) -> Verdict:
    """The verdict on a run that was rebuilt: is it the one that the record, and MLflow, tell of?"""
    if shown:
        first = shown[0]
        own, other = value_text(first, False), value_text(first, True)
        why = f"MLflow shows {where(first)} = {other}, the run's record has {own}"
        return Verdict("different", why)
    if inputs := rebuilt.of(*INPUTS):
        names = _listed([f"{one.place.title} ({one.place.kind})" for one in inputs])
        out = f"; {how_unequal(rebuilt)}" if rebuilt.results else ""
        return Verdict("different", f"the rebuilt run had another {names}{out}")
    if rebuilt.verdict == "nothing to compare":
        return Verdict("cannot be rebuilt", "there is nothing to compare: no metric, file or out")
    if rebuilt.verdict == "bit-identical":
        less = "; not compared, as outside the repository or changed later: " if unseen else ""
        why = f"every metric at every step, and every file it wrote{less}{_listed(unseen)}"
        return Verdict("bit-identical", why)
    causes = _listed(rebuilt.causes())
    if rebuilt.verdict == "equal within tolerance":
        return Verdict("equal within tolerance", f"{how_unequal(rebuilt)}; other here: {causes}")
    cause = causes or "nothing that the record tells of"
    return Verdict("different", f"{how_unequal(rebuilt)}; possible cause: {cause}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


@contextmanager
def _only_warned() -> Iterator[None]:
    """The verdict does not depend on MLflow."""
    try:
        yield
    except UserError as error:
        print(f"warning: {shown(str(error))} The verdict goes on without it.", file=sys.stderr)


def _tag(store: Store | None, record_id: str, found: Verdict, environment: str) -> None:
    """Say in MLflow what came out, where it shows the run; the verdict stands without."""
    if store is None:
        return
    tags = {
        "verified": found.outcome,
        "verified.why": shown(found.why),
        "verified.time": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "verified.host": host(),
        "verified.environment": environment,
    }
    with _only_warned():
        store.tag(record_id, tags)


def _ask(record: Record) -> None:
    start = record.start
    lines = record.patch().decode(errors="replace").splitlines()
    for line in lines:
        print(printable(line))
    question = (
        f"{start.id} (of {json.dumps(start.host)}) has this change, which was never run from this "
        "repository on this machine"
    )
    if not sys.stdin.isatty():
        raise UserError(f"{question}; rebuilding runs it: say --yes if you trust it.")
    try:
        answer = input(f"{question}. Rebuilding runs it. Go on? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() != "y":
        raise UserError("nothing was run.")


def _made_from(record: Record, commit: str) -> str:
    start = record.start
    own = start.tags.get("git.commit", "")
    parts = [(commit or "no commit")[:10] + (" and its uncommitted change" if start.patch else "")]
    if commit != own:
        parts.append(
            f"in place of {own[:10]}, which is not in this clone; what it read is the same"
        )
    if start.number > 1:
        parts.append(f"run {start.number} of its stage")
    if record.end and record.end.changed:
        parts.append(f"edited while it ran, which is left out: {', '.join(record.end.changed)}")
    return "; ".join(parts)


def _environment(start: RunStarted) -> str:
    """Where a run was, in short: the machine's name, Python, the processor, the GPUs."""
    shown = ("python", "machine.cpu", "machine.gpu")
    named = [
        (name.rpartition(".")[2], start.tags.get(name, "").partition(";")[0]) for name in shown
    ]
    return ", ".join([start.host, *(f"{name} {text}" for name, text in named if text)])
