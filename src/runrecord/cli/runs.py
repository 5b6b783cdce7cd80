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
        summary = run.summary
        begun = datetime.fromtimestamp(summary.time / 1000, UTC)
        status = summary.status or ("RUNNING" if run.is_live else "cut off")
        took = f"{(summary.last - summary.time) / 1000:.0f} s"
        row = (summary.id, status, f"{begun:%Y-%m-%d %H:%M:%S}", took)
        table.add_row(*map(printable, (*row, summary.git_commit[:10], summary.experiment)))
    console.print(table)
