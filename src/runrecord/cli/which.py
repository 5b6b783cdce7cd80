"""`runrecord which FILE`: the run that made a file, by its SHA-256."""

from pathlib import Path

from runrecord.catalog import Run, all_runs, newest_of_each, read_runs
from runrecord.cli.console import say, say_failure
from runrecord.dvc_cache import known_records
from runrecord.errors import RunFailed
from runrecord.events import files_of
from runrecord.files import sha256_of
from runrecord.paths import repo_root
from runrecord.record.schema import RecordRefused


def which(file: Path) -> None:
    """Print every run that wrote that very content: as an out, a model or a picture.

    Records that only DVC's cache or remote has are looked at where no other tells.

    Raises:
        RunFailed: no record tells of it.
        OSError: the file cannot be read.
    """
    root = repo_root()
    if not file.exists():
        raise FileNotFoundError(2, "No such file or directory", str(file))
    digest = sha256_of(file)
    found = [run.record for run in all_runs(root, say_failure) if _wrote(run, digest)]
    if not found:
        known = ((label, files) for label, files in known_records(root) if files is not None)
        runs = newest_of_each(read_runs(known, say_failure, sealed=True), say_failure)
        found = [run.record for run in runs if _wrote(run, digest)]
    for record in found:
        commit = record.start.tags.get("git.commit", "no commit")[:10]
        change = " and its uncommitted change" if record.start.patch else ""
        say(f"{file}: made by {record.start.id}, from {commit}{change}")
    if not found:
        raise RunFailed(
            f"{file}: no record here, in DVC's cache or its remote tells of a run that wrote this "
            f"content (SHA-256 {digest})."
        )


def _wrote(run: Run, digest: str) -> bool:
    """Did the run write that content? Of a damaged record that is said, and nothing else."""
    end, events = run.record.end, run.record.events()
    try:
        return (end is not None and digest in end.outs.values()) or any(
            file.sha256 == digest for event in events for file in files_of(event)
        )
    except RecordRefused as error:
        say_failure(run.label, error)
        return False
