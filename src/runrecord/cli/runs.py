"""Runs by their names: `runrecord runs`, `show RUN` and `which FILE`."""

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from runrecord.cli.console import note, refusing, show_table, tell, tell_failure
from runrecord.dvc.cache import known_records, records_at
from runrecord.dvc.stages import hash_paths
from runrecord.errors import RunFailed, UserError
from runrecord.project import RECORDS, RUN_NAMES, repo_root
from runrecord.record.events import START, Files, RecordRefused, files_of
from runrecord.record.reader import Record, files_in, view
from runrecord.store.catalog import all_runs, newest_of_each, sealed_records
from runrecord.store.runs import run_dir, run_dirs
from runrecord.trackers.player import find_shown


def find_records(root: Path, name: str) -> list[Record]:
    """The records of the runs that go by `name`, the oldest first.

    It is one of `RUN_NAMES`; a REVISION alone, for all records there; or a study's name.

    Raises:
        UserError: there is no such run, or its record is gone or damaged.
    """
    with refusing(name):
        found = _find(root, name)
    if not found:
        raise UserError(
            f"{name}: no record of such a run is in the run store, DVC's cache or its remote; name "
            f"{RUN_NAMES}."
        )
    return sorted(found, key=lambda record: record.start.time)


def find_record(root: Path, name: str) -> Record:
    """The record of the one run that goes by `name`.

    Raises:
        UserError: there is no such run, or there are several, or its record is gone or damaged.
    """
    found = find_records(root, name)
    if len(found) > 1:
        stages = ", ".join(record.start.stage for record in found)
        names = ", ".join(f"{name}:{what.removeprefix(RECORDS)}" for what in records_at(root, name))
        raise UserError(f"{name}: has {len(found)} records ({stages}); name one: {names}.")
    return found[0]


def _find(root: Path, name: str) -> list[Record]:
    for folder in (Path(name), run_dir(root, name)):
        try:
            (folder / START).stat()
        except PermissionError as error:
            raise UserError(f"{folder}: its record cannot be read: {error.strerror}.") from None
        except OSError:  # there is none, or it is too long for a file's name
            continue
        return [Record(files_in(folder))]
    revision, colon, what = name.partition(":")
    if there := records_at(root, revision):
        places = [RECORDS + what] if colon else [*there]
        return [Record(files) for place in places if (files := there.get(place)) is not None]
    return _of_study(root, name) or _by_id(root, find_shown(root, name) or name)


def _of_study(root: Path, study: str) -> list[Record]:
    """The newest record of a study's own run; without one, the records of its trials' runs."""
    own, trials = list[Record](), list[Record]()
    for folder in run_dirs(root):
        if folder.name.startswith(f"{study}-"):
            with suppress(RecordRefused):
                record = Record(files_in(folder))
                if record.start.tags.get("study") == study:
                    (trials if "study.run" in record.start.tags else own).append(record)
    return own[-1:] or trials


def _by_id(root: Path, record_id: str) -> list[Record]:
    """The record with that id: in the run store, in the workspace, or known to DVC."""
    places = [run_dir(root, record_id), *sealed_records(root)]
    here = ((str(one), files_in(one)) for one in places if (one / START).is_file())
    for label, files in chain(here, known_records(root)):
        try:
            if files is not None and (record := Record(files)).start.id == record_id:
                return [record]
        except RecordRefused as error:
            print(f"{label}: {error}; passed over", file=sys.stderr)
    return []


def list_runs() -> None:
    """Show a row per run on this machine, the oldest first."""
    rows = []
    for run in newest_of_each(all_runs(repo_root(), tell_failure), tell_failure):
        summary = run.summary
        status = summary.status or ("RUNNING" if run.is_live else "cut off")
        took = (summary.last - summary.time) / 1000
        begun = f"{datetime.fromtimestamp(summary.time / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
        rows.append((summary.id, status, begun, took, summary.git_commit[:10], summary.experiment))
    show_table("runs", rows, ("run", "status", "begun", "seconds", "commit", "experiment"))


def show(name: str) -> None:
    """Show what a run was made from, its params, its last metrics and what it wrote.

    Raises:
        UserError: there is no such run, or its record is damaged.
    """
    record = find_record(repo_root(), name)
    note(id=record.start.id)
    for (key, title), values in _sections(record).items():
        show_table(key, values, title=title)


def _sections(record: Record) -> dict[tuple[str, str], Mapping[str, object]]:
    """What there is to tell of a run, by the name that it has in JSON and its title."""
    start, end = record.start, record.end
    with refusing(start.id):
        seen = view(record)
    run: dict[str, object] = {
        "stage": start.stage,
        "host": start.host,
        "status": end.status if end else "cut off, or running",
        "command": " ".join(start.command),
    }
    if start.dataset:
        run["data"] = f"{start.dataset.name} {start.dataset.digest}"
    if end and end.message:
        run["error"] = end.message
    if start.patch:
        run["uncommitted change"] = f"{len(record.patch())} bytes, in its {start.patch.name}"
    evaluated = {name: one.sha256 for name, one in seen.evaluated.items()}
    observed = {
        name: [round(sum(values) / len(values), 3), max(values)]
        for name, values in seen.observed.items()
    }
    return {
        ("run", start.id): run,
        ("params", "Params"): start.params,
        ("metrics", "Metrics, last"): dict(sorted(seen.last_values().items())),
        ("damaged", "Damaged files, left out"): record.damaged,
        ("wrote", "Wrote (SHA-256)"): end.outs if end else {},
        ("read", "Read (SHA-256)"): {**start.deps, **evaluated},
        ("tags", "Origin and environment"): seen.tags,
        ("machine", "Machine, on average and at most"): observed,
    }


def which(file: Path) -> None:
    """Name every run that wrote exactly this content: as an out, a model or a picture.

    Looks into DVC's cache and remote only if no record here tells.

    Raises:
        RunFailed: no record tells of it.
        OSError: the file cannot be read.
    """
    root = repo_root()
    if not file.exists():
        raise FileNotFoundError(2, "No such file or directory", str(file))
    (digest,) = hash_paths(root, [str(file.resolve())], compiled=True).values()
    runs = all_runs(root, tell_failure)
    here = [(run.label, run.files()) for run in runs if run.summary.may_have_written(digest)]
    found = _writers(here, digest) or _writers(known_records(root), digest)
    made = sorted((one.start for one in found), key=lambda start: (start.time, start.id))
    named = [(one.id, one.tags.get("git.commit", "no commit"), bool(one.patch)) for one in made]
    note(sha256=digest, runs=[{"run": a, "commit": b, "changed": c} for a, b, c in named])
    if not found:
        raise RunFailed(
            f"{file}: no record here, in DVC's cache or its remote tells of a run that wrote this "
            f"content (SHA-256 {digest})."
        )
    for name, commit, changed in named:
        change = " and its uncommitted change" if changed else ""
        tell(f"{file}: made by {name}, from {commit[:10]}{change}")


def _writers(records: Iterable[tuple[str, Files | None]], digest: str) -> list[Record]:
    """One record of each run that wrote the content; says which records are damaged."""
    found: dict[str, Record] = {}
    for label, files in records:
        if files is None:
            continue
        try:
            record = Record(files)
            outs = record.end.outs.values() if record.end else ()
            kept = (file.sha256 for event in record.events() for file in files_of(event))
            if digest in chain(outs, kept):
                found.setdefault(record.start.id, record)
            elif record.damaged:
                tell_failure(label, RecordRefused(record.damage()))
        except RecordRefused as error:
            tell_failure(label, error)
    return [*found.values()]
