"""`runrecord show RUN`: all that a run's record tells."""

from collections.abc import Mapping

from rich.table import Table

from runrecord.cli.console import LONGEST_CELL, page
from runrecord.errors import UserError
from runrecord.record.reader import Record
from runrecord.record.schema import RecordRefused
from runrecord.record.view import view
from runrecord.safety.text import printable
from runrecord.store.lookup import find_record
from runrecord.store.paths import repo_root


def show(name: str) -> None:
    """Print what a run was made from, its params, its last metrics and what it wrote.

    Raises:
        UserError: there is no such run, or its record is damaged.
    """
    record = find_record(repo_root(), name)
    console = page()
    for title, values in _sections(record).items():
        if values:
            table = Table(title=title, title_justify="left", show_header=False)
            for key, value in values.items():
                table.add_row(printable(key), printable(str(value), LONGEST_CELL))
            console.print(table)


def _sections(record: Record) -> dict[str, Mapping[str, object]]:
    start, end = record.start, record.end
    try:
        seen = view(record)
    except RecordRefused as error:
        raise UserError(f"{start.id}: its record cannot be used: {error}") from None
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
    return {
        start.id: run,
        "Params": start.params,
        "Metrics, last": {
            name: f"{value:.6g}" for name, value in sorted(seen.last_values().items())
        },
        "Damaged files, left out": record.damaged,
        "Wrote (SHA-256)": end.outs if end else {},
        "Read (SHA-256)": {
            **start.deps,
            **{name: one.sha256 for name, one in seen.evaluated.items()},
        },
        "Origin and environment": seen.tags,
        "Machine, on average and at most": {
            name: f"{sum(values) / len(values):.6g}, {max(values):.6g}"
            for name, values in seen.observed.items()
        },
    }
