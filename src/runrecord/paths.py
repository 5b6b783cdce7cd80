"""Where things that outlive a run are kept: under the main repository's root."""

import os
from collections.abc import Mapping
from pathlib import Path

from runrecord.errors import UserError

RECORDS = "records/"
"""Where stages put their sealed records, from the repository's root."""

RUN_NAMES = "a run's name or MLflow id, a record's folder, or REVISION:WHAT for records/WHAT there"
"""How a person names runs: what `lookup` finds."""


def repo_root(cwd: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """The root of the DVC repository a person works in, also from inside DVC's temporary copies.

    DVC sets `DVC_ROOT` to it for every stage it runs, `dvc exp run --temp` and queues included.

    Raises:
        UserError: there is no DVC repository, or `DVC_ROOT` is none.
    """
    if given := environment.get("DVC_ROOT"):
        if not (Path(given) / ".dvc").is_dir():
            raise UserError(
                f"DVC_ROOT is '{given}', which is no DVC repository; unset it or correct it."
            )
        return Path(given).resolve()
    return checkout_root(cwd)


def checkout_root(cwd: Path | None = None) -> Path:
    """The root of the DVC repository that a process works in: of DVC's temporary copy, in one.

    Raises:
        UserError: there is none.
    """
    start = (cwd or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / ".dvc").is_dir():
            return folder
    raise UserError(f"{start}: not inside a DVC repository; run from the repository's root.")
