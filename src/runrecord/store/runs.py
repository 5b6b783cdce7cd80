"""The run store: the record of every run that was started here, whatever became of it."""

import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import Timeout

from runrecord.files import remove_unfinished, sha256
from runrecord.record.events import START, RunEnded
from runrecord.record.reader import Record, files_in
from runrecord.record.writer import RecordWriter
from runrecord.store.processes import (
    execution,
    held,
    is_alive,
    is_running,
    lock_of,
    no_locks,
    place_in,
    was_claimed_since,
    working_on,
)

STORE = ".runrecord/runs"  # where the records of all runs are, from the root
_STAMP = len("20261126-184232-89f5fe")
"""Characters of a new id that no other has: its time in UTC, and a random end."""
_LONGEST_STEM = 70
_SKEW = 60.0  # seconds that a disk's clock may be behind


def state_folder(root: Path) -> Path:
    """What is kept under the main repository's root and is no part of it: made, ignored by Git."""
    folder = root / ".runrecord"
    ignored = folder / ".gitignore"
    with suppress(OSError):  # whoever writes there will say so
        if not (ignored.exists() and ignored.stat().st_size):
            folder.mkdir(parents=True, exist_ok=True)
            ignored.write_text("*\n")
    return folder


def run_dir(root: Path, run_id: str) -> Path:
    """The folder of a run's record, whether there is one or not; no id leads out of the store."""
    run_id = run_id.replace("/", "_").lstrip(".") or "_"
    return root / STORE / run_id


def run_dirs(root: Path) -> list[Path]:
    """The folders of all runs in the store, the oldest first."""
    folders = (start.parent for start in root.glob(f"{STORE}/*/{START}"))
    return sorted(folders, key=lambda folder: folder.name[-_STAMP:])


def host() -> str:
    """This machine's name."""
    return platform.node()


def remember_patch(root: Path, patch: bytes) -> None:
    """Note that code with that change was run from this repository on this machine."""
    if patch:
        note = _note_of(root, patch)
        with suppress(OSError):  # a later `verify` asks, then
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()


def was_run_here(root: Path, patch: bytes) -> bool:
    """Was code with that very change run from this repository on this machine?"""
    return _note_of(root, patch).exists()


def _note_of(root: Path, patch: bytes) -> Path:
    return state_folder(root) / "patches" / sha256(patch)


@contextmanager
def claim_run(
    root: Path, title: str, stage: str, wanted: str | None = None
) -> Iterator[tuple[Path, int]]:
    """A run's folder, its name the run's id, held until this ends; and its number.

    Resumes `wanted` if it exists and is unclaimed; otherwise creates a run, whose id begins with
    `title`: its number is which run of this execution of `stage` it is, from 1. Where the store
    cannot be written, the folder is not made: the writer will say so.
    """
    with ExitStack() as stack:
        folder, number = run_dir(root, wanted) if wanted else None, 0
        try:
            if folder:
                stack.enter_context(working_on(folder, stage))
        except Timeout:
            folder = None
        if folder is None:
            with held(state_folder(root) / "number.lock", needed=False):
                number = number_here(root, stage)
                folder = _new_folder(root, title)
                stack.enter_context(working_on(folder, stage))
        yield folder, number


def number_here(root: Path, stage: str, follows: bool = False) -> int:
    """Which run of this execution of `stage` one that begins now is, from 1.

    One that `follows` has the number of the run which rank 0 of the same job may have begun.
    """
    own, began = execution()
    begun = [
        folder
        for folder in (root / STORE).glob("*")
        if was_claimed_since(folder, began - _SKEW)
        and ((place := place_in(folder)).get("execution"), place.get("stage")) == (own, stage)
    ]
    return len(begun) + 1 - (follows and any(map(is_running, begun)))


def _new_folder(root: Path, title: str) -> Path:
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", title)[:_LONGEST_STEM].strip("-_.") or "run"
    now, chance = datetime.now(UTC), secrets.choice("0123456789abcdef")
    name = f"{stem}-{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{chance}"  # by names, the oldest first
    folder = state_folder(root) / "runs" / name
    with suppress(OSError):
        folder.mkdir(parents=True)
    return folder


def close_if_dead(folder: Path, told: bool = False) -> Record | None:
    """Close the run in `folder` as KILLED if its process is gone for certain.

    `told` by a person that it is, close it unless it is known to live. Returns the record as it
    was found, if it was closed.

    Raises:
        RecordRefused: the record is damaged.
        OSError: it cannot be written.
    """
    with ExitStack() as stack:
        locks = True
        try:
            stack.enter_context(lock_of(folder).acquire(blocking=False))
        except Timeout:
            return None
        except OSError as error:
            if not no_locks(error):
                raise
            locks = False
        record = Record(files_in(folder))
        if record.end is not None:
            return None
        alive = is_alive(place_in(folder) or {"host": record.start.host}, locks)
        if alive or (alive is None and not told):
            return None
        remove_unfinished(folder)
        message = "its process ended without a trace: SIGKILL, a crash or power loss"
        end = RunEnded(record.last_sign_of_life, "KILLED", message)
        RecordWriter(folder, record.size).write(end)
        return record
