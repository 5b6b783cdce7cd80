"""The spool: the record of every run that was started here, whatever became of it."""

import hashlib
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from generative.record import LOCK, START, Journal, Record, files_in
from generative.tracking.events import RunEnded


def state_folder(root: Path) -> Path:
    """What this pipeline keeps for itself under the main repository's root."""
    return root / ".generative"


def spool_folder(root: Path) -> Path:
    """Where the records grow, a folder a run, named by its id."""
    return state_folder(root) / "spool"


def records_in(root: Path) -> list[Path]:
    """The folders of all runs in the spool, the oldest first."""
    return sorted(start.parent for start in spool_folder(root).glob(f"*/{START}"))


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
    return state_folder(root) / "patches" / hashlib.sha256(patch).hexdigest()


@contextmanager
def claimed(root: Path, stage: str, wanted: str | None = None) -> Iterator[Path]:
    """A run's folder, its name the run's id; held until the run's process is done or dead.

    It is that of the run `wanted`, unless that is gone or another process has it; else a new one.
    Where the spool cannot be written, the folder is not made: the journal will say so.
    """
    folder = spool_folder(root) / wanted if wanted else _new_folder(root, stage)
    lock = lock_of(folder)
    try:
        lock.acquire(timeout=1.0)  # sync and reap hold it for a moment, to see who lives
    except Timeout:
        folder = _new_folder(root, stage)
        lock = lock_of(folder)
        lock.acquire()
    except OSError:
        pass
    try:
        yield folder
    finally:
        lock.release()


def _new_folder(root: Path, stage: str) -> Path:
    while True:
        name = f"{stage}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        folder = spool_folder(root) / name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue  # another run has that id
        except OSError:
            pass
        return folder


def lock_of(folder: Path) -> FileLock:
    """What the process of the run in `folder` holds for as long as it lives."""
    return FileLock(folder / LOCK, thread_local=False)


def is_live(folder: Path) -> bool:
    """Does a process still work on the run in `folder`?"""
    if not folder.is_dir():
        return False
    try:
        with lock_of(folder).acquire(blocking=False):
            return False
    except Timeout:
        return True


def close_if_gone(folder: Path) -> Record | None:
    """Close the run in `folder` as KILLED if its process, on this host, is gone.

    Returns the record as it was found, if it was closed.

    Raises:
        RecordRefused: the record is damaged.
        OSError: it cannot be written.
    """
    try:
        with lock_of(folder).acquire(blocking=False):
            record = Record(files_in(folder))
            if record.end is not None or record.start.host != host():
                return None
            message = "its process was gone without a word: SIGKILL, a crash or power loss"
            end = RunEnded(record.last_sign_of_life, "KILLED", message)
            Journal(folder, record.size).write(end)
            return record
    except Timeout:
        return None
