"""`runrecord show RUN`: all that a run's record tells."""

from collections.abc import Mapping

from rich.table import Table

from runrecord.cli.console import page
from runrecord.errors import UserError
from runrecord.lookup import find_record
from runrecord.paths import repo_root
from runrecord.record.reader import Record
from runrecord.record.schema import RecordRefused
from runrecord.text import printable
from runrecord.verify.compare import series_of


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
                table.add_row(printable(key), printable(str(value)))
            console.print(table)


def _sections(record: Record) -> dict[str, Mapping[str, object]]:
    start, end = record.start, record.end
    try:
        series = series_of(record.events())
    except RecordRefused as error:
        raise UserError(f"{start.id}: its record cannot be used: {error}") from None
    run: dict[str, object] = {
        "stage": start.stage,
        "host": start.host,
        "status": end.status if end else "cut off, or running",
        "data": f"{start.dataset.name} {start.dataset.digest}",
    }
    if end and end.message:
        run["error"] = end.message
    if start.patch:
        run["uncommitted change"] = f"{len(start.patch)} bytes, in its change.patch"
    return {
        start.id: run,
        "Params": start.params,
        "Metrics, last": {
            name: f"{points[max(points)][0]:.6g}"
            for name, points in sorted(series.items())
            if points
        },
        "Wrote (SHA-256)": end.outs if end else {},
        "Read (SHA-256)": {**start.deps, **start.models},
        "Origin and environment": start.tags,
    }
