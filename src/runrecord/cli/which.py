"""`runrecord which FILE`: the run that made a file, by its SHA-256."""

from collections.abc import Iterable
from pathlib import Path

from runrecord.cli.console import say, say_failure
from runrecord.dvc.cache import known_records
from runrecord.dvc.stages import hash_paths
from runrecord.errors import RunFailed
from runrecord.project import repo_root
from runrecord.record.events import Files, RecordRefused, files_of
from runrecord.record.reader import Record
from runrecord.store.catalog import all_runs


def which(file: Path) -> None:
    """Print every run that wrote exactly this content: as an out, a model or a picture.

    Looks into DVC's cache and remote only if no record here tells.

    Raises:
        RunFailed: no record tells of it.
        OSError: the file cannot be read.
    """
    root = repo_root()
    if not file.exists():
        raise FileNotFoundError(2, "No such file or directory", str(file))
    (digest,) = hash_paths(root, [str(file.resolve())], compiled=True).values()
    runs = all_runs(root, say_failure)
    here = [(run.label, run.files()) for run in runs if run.summary.may_have_written(digest)]
    found = _writers(here, digest)
    if not found:
        elsewhere = ((label, files) for label, files in known_records(root) if files is not None)
        found = _writers(elsewhere, digest)
    if not found:
        raise RunFailed(
            f"{file}: no record here, in DVC's cache or its remote tells of a run that wrote this "
            f"content (SHA-256 {digest})."
        )
    for start in sorted((one.start for one in found), key=lambda start: (start.time, start.id)):
        change = " and its uncommitted change" if start.patch else ""
        commit = start.tags.get("git.commit", "no commit")[:10]
        say(f"{file}: made by {start.id}, from {commit}{change}")


def _writers(records: Iterable[tuple[str, Files]], digest: str) -> list[Record]:
    """One record of each run that wrote the content; says which records are damaged."""
    found: dict[str, Record] = {}
    for label, files in records:
        try:
            record = Record(files)
            if _wrote(record, digest):
                found.setdefault(record.start.id, record)
            elif record.damaged:
                say_failure(label, RecordRefused(record.damage()))
        except RecordRefused as error:
            say_failure(label, error)
    return [*found.values()]


def _wrote(record: Record, digest: str) -> bool:
    return (record.end is not None and digest in record.end.outs.values()) or any(
        file.sha256 == digest for event in record.events() for file in files_of(event)
    )
