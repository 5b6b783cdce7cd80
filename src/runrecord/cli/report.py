"""`runrecord report`: one page about runs, to open from a file."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from runrecord.catalog import read_runs, records_in_store, records_in_workspace
from runrecord.errors import UserError
from runrecord.files import write_atomic
from runrecord.lookup import find_records
from runrecord.paths import repo_root
from runrecord.project import Project, load_project
from runrecord.record.reader import Record
from runrecord.record.schema import RecordRefused
from runrecord.report.judgement import apart_from_seed
from runrecord.report.page import render
from runrecord.run_view import RunView, view


def report(names: Sequence[str], output: Path) -> None:
    """Write a page about the named runs; without a name, about those whose results are at hand.

    Of these, what made or evaluated a model is shown, if anything did.

    Raises:
        UserError: there is no such run, or its record is damaged.
        OSError: the page cannot be written.
    """
    root = repo_root()
    found = [record for name in names for record in find_records(root, name)]
    if not names:
        found = [run.record for run in read_runs(records_in_workspace(root), _refuse, sealed=True)]
        found.sort(key=lambda record: record.start.time)
    if not found:
        raise UserError("records/: holds no record yet; run 'dvc repro', or name runs.")
    runs = {record.start.id: _read(record) for record in found}
    if not names:
        runs = {key: run for key, run in runs.items() if run.models or run.evaluated} or runs
    project = load_project(root)
    evaluations, replicas = _others(root, [*runs.values()], project)
    page = render([*runs.values()], [*evaluations, *runs.values()], project, replicas)
    write_atomic(output, page.encode())
    print(f"{output}: {len(runs)} runs side by side")


def _others(
    root: Path, runs: Sequence[RunView], project: Project
) -> tuple[list[RunView], list[RunView]]:
    """What the workspace and the store have besides, less damaged ones.

    Every evaluation; and the finished runs that differ from one of `runs` by their seed alone.
    """
    groups = {apart_from_seed(run.start, project) for run in runs}
    evaluations, replicas = [], []
    for known in (records_in_workspace(root), records_in_store(root)):
        for run in read_runs(known, lambda _label, _error: None, sealed=True):
            with suppress(RecordRefused):
                seen = view(run.record)
                if seen.evaluated:
                    evaluations.append(seen)
                if seen.status == "FINISHED" and apart_from_seed(seen.start, project) in groups:
                    replicas.append(seen)
    return evaluations, replicas


def _read(record: Record) -> RunView:
    try:
        return view(record)
    except RecordRefused as error:
        _refuse(record.start.id, error)


def _refuse(label: str, error: Exception) -> NoReturn:
    raise UserError(f"{label}: its record cannot be used: {error}") from None
