"""`runrecord show RUN`: everything that a run's record says."""

from collections.abc import Mapping

from rich.table import Table

from runrecord.cli.console import add_row, page, refusing
from runrecord.cli.lookup import find_record
from runrecord.project import repo_root
from runrecord.record.reader import Record, view


def show(name: str) -> None:
    """Print what a run was made from, its params, its last metrics and what it wrote.

    Raises:
        UserError: there is no such run, or its record is damaged.
    """
    console = page()
    for title, values in _sections(find_record(repo_root(), name)).items():
        if values:
            table = Table(title=title, title_justify="left", show_header=False)
            for row in values.items():
                add_row(table, *row)
            console.print(table)


def _sections(record: Record) -> dict[str, Mapping[str, object]]:
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
    metrics = {name: f"{value:.6g}" for name, value in sorted(seen.last_values().items())}
    observed = {
        name: f"{sum(values) / len(values):.6g}, {max(values):.6g}"
        for name, values in seen.observed.items()
    }
    return {
        start.id: run,
        "Params": start.params,
        "Metrics, last": metrics,
        "Damaged files, left out": record.damaged,
        "Wrote (SHA-256)": end.outs if end else {},
        "Read (SHA-256)": {**start.deps, **evaluated},
        "Origin and environment": seen.tags,
        "Machine, on average and at most": observed,
    }
