"""`runrecord runs`: the runs that left a record on this machine."""

from datetime import UTC, datetime

from rich.table import Table

from runrecord.cli.console import add_row, page, say_failure
from runrecord.project import repo_root
from runrecord.store.catalog import all_runs, newest_of_each


def list_runs() -> None:
    """Print a row per run, the oldest first."""
    table = Table("run", "status", "begun (UTC)", "took", "commit", "experiment")
    for run in newest_of_each(all_runs(repo_root(), say_failure), say_failure):
        summary = run.summary
        status = summary.status or ("RUNNING" if run.is_live else "cut off")
        begun = f"{datetime.fromtimestamp(summary.time / 1000, UTC):%Y-%m-%d %H:%M:%S}"
        took = f"{(summary.last - summary.time) / 1000:.0f} s"
        add_row(table, summary.id, status, begun, took, summary.git_commit[:10], summary.experiment)
    page().print(table)
