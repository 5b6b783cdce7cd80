"""`runrecord report`: one page about runs, to open from a file."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path

from runrecord.cli.console import note, refusing, tell
from runrecord.cli.runs import find_records
from runrecord.errors import UserError
from runrecord.files import remove_unfinished, write_atomic
from runrecord.project import Project, load_project, repo_root
from runrecord.record.events import START, RecordRefused, RunStarted, read_start
from runrecord.record.reader import Record, RunView, view
from runrecord.report.page import all_metrics, render
from runrecord.report.seed_spread import apart_from_seed
from runrecord.safety.text import say
from runrecord.store.catalog import RecordedRun, all_runs, newest_of_each, sealed_records


def report(names: Sequence[str], output: Path, markdown: bool = False) -> None:
    """Write a page about the named runs, or print what it begins with as Markdown.

    Without a name, it is about the workspace's: those that made or evaluated a model, if any did.

    Raises:
        UserError: there is no such run, or its record is damaged.
        OSError: the page cannot be written.
    """
    root = repo_root()
    wanted = names or map(str, sealed_records(root))
    found = [record for name in wanted for record in find_records(root, name)]
    if not names:
        found.sort(key=lambda record: record.start.time)
    if not found:
        raise UserError("records/: holds no record yet; run 'dvc repro', or name runs.")
    shown = [*{record.start.id: _read(record) for record in found}.values()]
    if not names:
        shown = [run for run in shown if run.models or run.evaluated] or shown
    project = load_project(root)
    there = newest_of_each(all_runs(root, _ignore), _ignore)
    evaluations = [one for run in shown if run.model for one in _newest(there, run.model)]
    replicas = [*_replicas(there, shown, project)]
    page = render(shown, [*evaluations, *shown], project, replicas, output.parent, markdown)
    note(page=page if markdown else str(output), runs=[run.start.id for run in shown])
    if markdown:
        print(page, end="")
        return
    remove_unfinished(output.parent, f".{escape(output.name)}.*")
    write_atomic(output, page.encode())
    tell(f"{output}: {f'{len(shown)} runs side by side' if len(shown) > 1 else shown[0].start.id}")


def _ignore(_label: str, _error: Exception) -> None:
    """Another run's record: the page does without."""


def _newest(there: Sequence[RecordedRun], model: str) -> Iterator[RunView]:
    """The newest evaluation of a model whose record can be read, if there is one."""
    for run in reversed(there):
        if model in (run.summary.evaluated or {}):
            with suppress(RecordRefused):
                yield view(run.record())
                return


def _replicas(
    there: Sequence[RecordedRun], shown: Sequence[RunView], project: Project
) -> Iterator[tuple[RunStarted, Mapping[str, float]]]:
    """The finished runs that differ from one of those shown by their seed alone; their metrics.

    A model's metrics are what its newest evaluation says.
    """
    groups = {apart_from_seed(run.start, project) for run in shown}
    stages = {run.start.stage for run in shown}
    tested: dict[str, Mapping[str, float]] = {}
    for run in there:
        tested |= run.summary.evaluated or {}
    for run in there:
        summary = run.summary
        if summary.stage in stages and summary.status == "FINISHED" and summary.metrics is not None:
            with suppress(OSError, ValueError):
                start = read_start(run.files()[START].read_bytes())
                if apart_from_seed(start, project) in groups:
                    yield start, all_metrics(summary.metrics, tested.get(summary.model or "", {}))


def _read(record: Record) -> RunView:
    with refusing(record.start.id):
        seen = view(record)
    if record.damaged:
        say(f"{record.start.id}: without its damaged files: {record.damage()}")
    return seen
