"""`runrecord compare A B`: why do two runs differ? `verify RUN`: does it give the same again?"""

import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from runrecord.cli.console import note, refusing, show_table, tell
from runrecord.cli.runs import find_record, find_records
from runrecord.errors import UserError
from runrecord.files import sha256, write_atomic
from runrecord.project import load_project, repo_root
from runrecord.record.events import EVENTS, START, RecordRefused, RunStarted, fields_with_files
from runrecord.record.reader import Record, view
from runrecord.run.process import raise_on_signals
from runrecord.safety.text import shown, some
from runrecord.store.runs import was_run_here
from runrecord.trackers.mlflow.audit import is_of_origin
from runrecord.trackers.player import Store, has_store
from runrecord.verify.compare import (
    INPUTS,
    TITLES,
    Comparison,
    Difference,
    compare,
    how_equal,
    table_of,
    value_text,
    where,
)
from runrecord.verify.rebuild import CannotRebuild, rebuild, scratch

Outcome = Literal["bit-identical", "equal within tolerance", "different", "cannot be rebuilt"]
_STATUS: dict[Outcome, int] = {"different": 1, "cannot be rebuilt": 2}  # for scripts; else 0
_UNPROVED = ("patch", "output")  # fields of a record's files that are no results
_VERIFIER = "pkg:generic/runrecord/verify@1"  # counted up when a verdict means something else


def show_comparison(first: str, second: str, tolerance: float) -> None:
    """Show all that differs between two runs, and the verdict.

    Raises:
        UserError: a run is not known, or its record is gone or damaged.
    """
    root = repo_root()
    records = find_record(root, first), find_record(root, second)
    project = load_project(root)
    with refusing(f"{first} or {second}"):
        found = compare(*records, tolerance, project.code, project.packages)
    note(**found.as_json())
    _show_differences((records[0].start.id, records[1].start.id), found)
    less = ", less what is not compared" if found.not_compared and not found.results else ""
    tell(f"Verdict: {found.verdict}: {how_equal(found)}{less}.")


def _show_differences(names: tuple[str, str], found: Comparison) -> None:
    """Print a table of each kind of thing that differs between two runs."""
    for title, kinds in TITLES.items():
        show_table("", *table_of(names, found.of(*kinds)), title)
    if found.not_compared:
        tell(f"Not compared: {'; '.join(found.not_compared)}.")


def verify(
    name: str, tolerance: float, own_packages: bool, trusted: bool, attest: Path | None = None
) -> int:
    """Rebuild every run that goes by `name`, and show and tag the verdict on each.

    Returns the worst exit status: 0 equal, 1 different, 2 cannot be rebuilt.

    Raises:
        UserError: there is no such run, or its change is not trusted; or several are attested.
    """
    raise_on_signals()
    root = repo_root()
    store: Store | None = None
    with _only_warned():
        store = Store(root) if has_store(root) else None
    records = find_records(root, name)
    if attest and len(records) > 1:
        raise UserError(f"{name}: is {len(records)} runs; --attest takes one, so name one.")
    for record in records:
        if record.start.patch and not (trusted or was_run_here(root, record.patch())):
            _ask(record)
    verdicts = [_verify(root, record, store, tolerance, own_packages) for record in records]
    note(runs=verdicts)
    if attest:
        statement = _statement(records[0], verdicts[0]["verdict"], tolerance)
        write_atomic(attest, json.dumps(statement, indent=2).encode())
    return max(_STATUS.get(one["verdict"], 0) for one in verdicts)


def _verify(
    root: Path, record: Record, store: Store | None, tolerance: float, own_packages: bool
) -> dict[str, Any]:
    """Rebuild one run, print what came out and tag it; the verdict, and what it is about."""
    start, began = record.start, time.monotonic()
    print(f"rebuilding {start.id}", file=sys.stderr)
    commit, again = start.tags.get("git.commit", ""), None
    comparison: Comparison | None = None
    in_mlflow: list[Difference] | None = None  # what it shows otherwise; None: not seen
    outcome: Outcome = "cannot be rebuilt"
    try:
        with _only_warned():
            in_mlflow = store.differences(record) if store else None
        if record.end is None or record.end.status != "FINISHED":
            became = record.end.status if record.end else "cut off"
            raise CannotRebuild(
                f"it did not finish: it was {became} at step {view(record).last_step()}"
            )
        with scratch(root) as folder:
            rebuilt = rebuild(root, record, folder, own_packages)
            commit, again = rebuilt.commit, rebuilt.record
            if again:
                project = load_project(root)
                comparison = compare(record, again, tolerance, project.code, project.packages)
                outcome, why = _judge(comparison, in_mlflow or [], rebuilt.unseen)
            else:
                outcome = "different"
                why = f"it was run {start.number} of its stage, which leaves {rebuilt.count} here"
    except CannotRebuild as error:
        why = str(error)
    except RecordRefused as error:
        why = f"its record cannot be used: {error}"
    if comparison:
        _show_differences((start.id, "rebuilt"), comparison)
    show_table("", *table_of(("record", "MLflow"), in_mlflow or ()), "MLflow")
    environment = _environment(again.start) if again else ""
    mlflow = "shows other values" if in_mlflow else "shows what the record says"
    told = {
        "run": start.id,
        "made from": _made_from(record, commit),
        "rebuilt on": environment or "-",
        "its record": record.damage() or ("whole" if comparison else "-"),
        "MLflow": "does not show this run here" if in_mlflow is None else mlflow,
        "seconds": round(time.monotonic() - began),
    }
    show_table("", told)
    tell(f"Verdict: {outcome}: {why.removesuffix('.')}.")
    if any(map(is_of_origin, in_mlflow or ())):
        print("MLflow shows another run under this name: it is not tagged.", file=sys.stderr)
    elif store:
        tags = {
            "verified": outcome,
            "verified.why": shown(why),
            "verified.time": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            "verified.host": platform.node(),
            "verified.environment": environment,
        }
        with _only_warned():
            store.tag(start.id, tags)
    found = comparison.as_json() if comparison else None
    return {**told, "verdict": outcome, "why": why, "comparison": found}


def _judge(
    rebuilt: Comparison, in_mlflow: Sequence[Difference], unseen: Sequence[str]
) -> tuple[Outcome, str]:
    """The verdict on a run that was rebuilt: is it the one that the record, and MLflow, tell of?"""
    if in_mlflow:
        first = in_mlflow[0]
        own, other = value_text(first, False), value_text(first, True)
        return "different", f"MLflow shows {where(first)} = {other}, the run's record has {own}"
    if inputs := rebuilt.of(*INPUTS):
        names = some([f"{one.place.title} ({one.place.kind})" for one in inputs])
        out = f"; {how_equal(rebuilt)}" if rebuilt.results else ""
        return "different", f"the rebuilt run had another {names}{out}"
    if rebuilt.verdict == "nothing to compare":
        return "cannot be rebuilt", "there is nothing to compare: no metric, file or out"
    if rebuilt.verdict == "bit-identical":
        less = "; not compared, as outside the repository or changed later: " if unseen else ""
        why = f"every metric at every step, and every file it wrote{less}{some(unseen)}"
        return "bit-identical", why
    causes = some(rebuilt.causes())
    if rebuilt.verdict == "equal within tolerance":
        return "equal within tolerance", f"{how_equal(rebuilt)}; other here: {causes}"
    cause = causes or "nothing that the record tells of"
    return "different", f"{how_equal(rebuilt)}; possible cause: {cause}"


def _statement(record: Record, outcome: Outcome, tolerance: float) -> dict[str, Any]:
    """What was verified of a record and of all that its run wrote, as in-toto has it.

    A Statement with a Simple Verification Result (https://in-toto.io/attestation/svr/v0.1).
    """
    own = record.contents.keys() & {START, EVENTS}
    digests = {name: sha256(record.contents[name]) for name in sorted(own, reverse=True)}
    with suppress(RecordRefused):  # then it was not rebuilt
        for event in record.events(files=False):
            named = fields_with_files(event)
            digests |= {file.name: file.sha256 for field, file in named if field not in _UNPROVED}
    digests = {f"{record.start.id}/{name}": digest for name, digest in digests.items()}
    digests |= record.end.outs if record.end else {}
    equal = f"EQUAL_WITHIN_{tolerance:g}"
    proved = {"bit-identical": "BIT_IDENTICAL", "equal within tolerance": equal}.get(outcome)
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": one}} for name, one in digests.items()],
        "predicateType": "https://in-toto.io/attestation/svr/v0.1",
        "predicate": {
            "verifier": {"id": _VERIFIER},
            "timeCreated": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "properties": [f"RUNRECORD_{proved}"] if proved else [],
        },
    }


@contextmanager
def _only_warned() -> Iterator[None]:
    """The verdict does not depend on MLflow."""
    try:
        yield
    except UserError as error:
        print(f"warning: {shown(str(error))} The verdict goes on without it.", file=sys.stderr)


def _ask(record: Record) -> None:
    start = record.start
    for line in record.patch().decode(errors="replace").splitlines():
        tell(line)
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
    names = {"python": "python", "cpu": "machine.cpu", "gpu": "machine.gpu"}
    told = {name: start.tags.get(tag, "").partition(";")[0] for name, tag in names.items()}
    return ", ".join([start.host, *(f"{name} {text}" for name, text in told.items() if text)])
