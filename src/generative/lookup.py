"""Finding the records of the runs that a person names."""

from itertools import chain
from pathlib import Path

from generative.dvc_outs import known_records, records_at
from generative.errors import UserError
from generative.names import WAYS
from generative.outputs import RECORDS
from generative.record import START, Record, RecordRefused, files_in
from generative.replay import Store, has_store, restored
from generative.spool import spool_folder


def find_records(root: Path, name: str) -> list[Record]:
    """The records of the runs that go by `name`, which is one of these.

    - a run's name, which is its record's id; or its id in MLflow;
    - a folder that holds a record;
    - `REVISION:WHAT`: that of `records/WHAT` in a commit, branch, tag or DVC experiment;
    - `REVISION`: all records there.

    Raises:
        UserError: there is no such run, or its record is gone or damaged.
    """
    try:
        found = _find(root, name)
    except RecordRefused as error:
        raise UserError(f"{name}: its record cannot be used: {error}") from None
    if not found:
        raise UserError(
            f"{name}: no record of such a run is in the spool, DVC's cache or its remote; name "
            f"{WAYS}."
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
        raise UserError(
            f"{name}: has {len(found)} records ({stages}); name one as {name}:ae, {name}:vae or "
            f"{name}:evaluation."
        )
    return found[0]


def _find(root: Path, name: str) -> list[Record]:
    for folder in (Path(name), spool_folder(root) / name):
        if (folder / START).is_file():
            return [Record(files_in(folder))]
    revision, colon, what = name.partition(":")
    there = records_at(root, revision)
    chosen = [there.get(RECORDS + what)] if colon else there.values()
    if there:
        return [Record(files) for files in chosen if files is not None]
    shown = Store(root).shown if has_store(root) else {}
    ids = {run.run_id: record_id for record_id, run in shown.items()}
    return _by_id(root, ids.get(name, name))


def _by_id(root: Path, record_id: str) -> list[Record]:
    """The record with that id: in the spool, in the workspace, or known to DVC."""
    folder = spool_folder(root) / record_id
    if (folder / START).is_file():
        return [Record(files_in(folder))]
    for _, files in chain(restored(root), known_records(root)):
        if files is not None:
            record = Record(files)
            if record.start.id == record_id:
                return [record]
    return []
