"""`runrecord runs`: the runs that left a record on this machine."""

from datetime import UTC, datetime

from rich.table import Table

from runrecord.catalog import all_runs
from runrecord.cli.console import page, say_failure
from runrecord.paths import repo_root
from runrecord.run_store import is_running, run_dir
from runrecord.text import printable


def list_runs() -> None:
    """Print a line a run, the oldest first."""
    root, console = repo_root(), page()
    table = Table("run", "status", "begun (UTC)", "took", "commit", "experiment")
    for run in all_runs(root, say_failure):
        record, tags = run.record, run.record.start.tags
        begun = datetime.fromtimestamp(record.start.time / 1000, UTC)
        seconds = (record.last_sign_of_life - record.start.time) / 1000
        running = is_running(run_dir(root, record.start.id))
        status = record.end.status if record.end else "RUNNING" if running else "cut off"
        row = (record.start.id, status, f"{begun:%Y-%m-%d %H:%M:%S}", f"{seconds:.0f} s")
        table.add_row(
            *map(printable, (*row, tags.get("git.commit", "")[:10], tags.get("dvc.experiment", "")))
        )
    console.print(table)
