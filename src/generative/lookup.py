"""Finding the record of the run that a person names."""

from itertools import chain
from pathlib import Path

from generative.dvc_records import known_records, record_at
from generative.errors import UserError
from generative.record import START, Record, RecordRefused, files_in
from generative.replay import Store, restored
from generative.spool import spool_folder


def find_record(root: Path, name: str) -> Record:
    """The record of a run, named in one of these ways.

    - the run's id in MLflow, or its name, which is its record's id;
    - a folder that holds a record;
    - `REVISION:WHAT`: that of `records/WHAT` in a commit, branch, tag or DVC experiment.

    Raises:
        UserError: there is no such run, or its record is gone or damaged.
    """
    try:
        return _find(root, name)
    except RecordRefused as error:
        raise UserError(f"{name}: its record cannot be used: {error}") from None


def _find(root: Path, name: str) -> Record:
    if (Path(name) / START).is_file():
        return Record(files_in(Path(name)))
    revision, colon, what = name.partition(":")
    if colon:
        files = record_at(root, revision, f"records/{what}")
        if files is None:
            raise UserError(
                f"{name}: no such record in DVC's cache or remote; name it as REVISION:ae, "
                "REVISION:vae or REVISION:evaluation, with a commit, branch, tag or experiment."
            )
        return Record(files)
    shown = {run.run_id: record_id for record_id, run in Store(root).shown.items()}
    found = _by_id(root, shown.get(name, name))
    if found is None:
        raise UserError(
            f"{name}: no run with that name or MLflow id has a record here; see 'make mlflow' for "
            "both, and 'generative sync --all' for what DVC knows."
        )
    return found


def _by_id(root: Path, record_id: str) -> Record | None:
    """The record with that id: in the spool, in the workspace, or known to DVC."""
    folder = spool_folder(root) / record_id
    if (folder / START).is_file():
        return Record(files_in(folder))
    for _, files in chain(restored(root), known_records(root)):
        if files is not None:
            record = Record(files)
            if record.start.id == record_id:
                return record
    return None
