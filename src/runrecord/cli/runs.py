"""`runrecord runs`: the runs that left a record on this machine."""

from datetime import UTC, datetime

from rich.table import Table

from runrecord.cli.console import page, say_failure
from runrecord.safety.text import printable
from runrecord.store.catalog import all_runs, newest_of_each
from runrecord.store.paths import repo_root


def list_runs() -> None:
    """Print a line a run, the oldest first."""
    root, console = repo_root(), page()
    table = Table("run", "status", "begun (UTC)", "took", "commit", "experiment")
    for run in newest_of_each(all_runs(root, say_failure), say_failure):
        told = run.told
        begun = datetime.fromtimestamp(told.time / 1000, UTC)
        status = told.status or ("RUNNING" if run.goes_on else "cut off")
        took = f"{(told.last - told.time) / 1000:.0f} s"
        row = (told.id, status, f"{begun:%Y-%m-%d %H:%M:%S}", took)
        table.add_row(*map(printable, (*row, told.git_commit[:10], told.experiment)))
    console.print(table)
