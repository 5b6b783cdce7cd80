"""Finding the records of the runs that a person names."""

import sys
from contextlib import suppress
from itertools import chain
from pathlib import Path

from runrecord.dvc.cache import known_records, records_at, records_of_equal_runs
from runrecord.errors import UserError
from runrecord.project import RECORDS, RUN_NAMES
from runrecord.record.events import START, RecordRefused
from runrecord.record.reader import Record, files_in
from runrecord.safety.text import printable
from runrecord.store.catalog import sealed_records
from runrecord.store.runs import run_dir, run_dirs
from runrecord.trackers.player import find_shown


def find_records(root: Path, name: str) -> list[Record]:
    """The records of the runs that go by `name`, which is one of these.

    - a run's name, which is its record's id; or its id in MLflow;
    - a folder that holds a record;
    - `REVISION:WHAT`: that of `records/WHAT` in a commit, branch, tag or DVC experiment;
    - `REVISION`: all records there;
    - a study's name.

    Where a revision's record cannot be had, as of results that somebody else committed, it is that
    of the newest run here with the same command, params and dependencies; that is said.

    Raises:
        UserError: there is no such run, or its record is gone or damaged.
    """
    try:
        found = _find(root, name)
    except RecordRefused as error:
        raise UserError(f"{name}: its record cannot be used: {error}") from None
    if not found:
        raise UserError(
            f"{name}: no record of such a run is in the run store, DVC's cache or its remote; name "
            f"{RUN_NAMES}."
        )
    return found


def find_record(root: Path, name: str) -> Record:
    """The record of the one run that goes by `name`.

    Raises:
        UserError: there is no such run, or there are several, or its record is gone or damaged.
    """
    found = find_records(root, name)
    if len(found) > 1:
        stages = ", ".join(record.start.stage for record in found)
        names = ", ".join(f"{name}:{what.removeprefix(RECORDS)}" for what in records_at(root, name))
        raise UserError(f"{name}: has {len(found)} records ({stages}); name one: {names}.")
    return found[0]


def _find(root: Path, name: str) -> list[Record]:
    for folder in (Path(name), run_dir(root, name)):
        with suppress(OSError):  # too long for a file's name, or not for us to read
            if (folder / START).is_file():
                return [Record(files_in(folder))]
    revision, colon, what = name.partition(":")
    there = records_at(root, revision)
    chosen = {RECORDS + what: there.get(RECORDS + what)} if colon else there
    if there:
        found = [
            Record(files) if files is not None else _of_equal_run(root, revision, path)
            for path, files in chosen.items()
        ]
        return [record for record in found if record is not None]
    if study := _of_study(root, name):
        return study
    return _by_id(root, find_shown(root, name) or name)


def _of_study(root: Path, study: str) -> list[Record]:
    """The newest record of a study's own run; without one, the records of its trials' runs."""
    own, trials = list[Record](), list[Record]()
    for folder in run_dirs(root):
        if folder.name.startswith(f"{study}-"):
            with suppress(RecordRefused):
                record = Record(files_in(folder))
                if record.start.tags.get("study") == study:
                    (trials if "study.run" in record.start.tags else own).append(record)
    return own[-1:] or trials


def _of_equal_run(root: Path, revision: str, path: str) -> Record | None:
    """The record of the newest run here of what `path` records at a revision; said to a person."""
    own = [Record(files) for files in records_of_equal_runs(root, revision, path)]
    if not own:
        return None
    newest = max(own, key=lambda record: record.start.time)
    print(
        f"{printable(revision)}: the record that its dvc.lock names as {printable(path)} cannot be "
        f"had here; taken is {newest.start.id}, this machine's run of the same command, params "
        "and deps.",
        file=sys.stderr,
    )
    return newest


def _by_id(root: Path, record_id: str) -> list[Record]:
    """The record with that id: in the run store, in the workspace, or known to DVC."""
    folder = run_dir(root, record_id)
    if (folder / START).is_file():
        return [Record(files_in(folder))]
    workspace = ((str(one), files_in(one)) for one in sealed_records(root))
    for label, files in chain(workspace, known_records(root)):
        try:
            record = Record(files) if files is not None else None
        except RecordRefused as error:
            print(f"{label}: {error}; passed over", file=sys.stderr)
            continue
        if record and record.start.id == record_id:
            return [record]
    return []
