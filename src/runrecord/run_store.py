"""The run store: the record of every run that was started here, whatever became of it."""

import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from runrecord.events import RunEnded
from runrecord.files import remove_unfinished, sha256
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import LOCK, START
from runrecord.record.writer import RecordWriter

_OLD, _NEW = ".generative/spool", ".runrecord/runs"
STORES = (_OLD, _NEW)
"""Where records are kept, from the root; version 0.1 had another place, which is still read."""
_STAMP = len("20261126-184232-89f5fe")
"""Characters of a new id that no other has: its time in UTC, and a random end."""
_LONGEST_STEM = 70


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
    old = root / _OLD / run_id
    return old if (old / START).is_file() else root / _NEW / run_id


def run_dirs(root: Path) -> list[Path]:
    """The folders of all runs in the store, the oldest first."""
    starts = [start.parent for place in STORES for start in root.glob(f"{place}/*/{START}")]
    return sorted(starts, key=lambda folder: folder.name[-_STAMP:])


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
def claim_run(root: Path, title: str, wanted: str | None = None) -> Iterator[Path]:
    """A run's folder, its name the run's id; held until the run's process is done or dead.

    It is that of the run `wanted`, unless that is gone or another process has it; else a new one,
    whose id begins with `title`.
    Where the store cannot be written, the folder is not made: the writer will say so.
    """
    folder = run_dir(root, wanted) if wanted else _new_folder(root, title)
    lock = lock_of(folder)
    try:
        lock.acquire(timeout=1.0)  # sync and reap hold it for a moment, to see who lives
    except Timeout:
        folder = _new_folder(root, title)
        lock = lock_of(folder)
        lock.acquire()
    except OSError:
        pass
    try:
        yield folder
    finally:
        remove_unfinished(folder)
        lock.release()


def _new_folder(root: Path, title: str) -> Path:
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", title)[:_LONGEST_STEM].strip("-_.") or "run"
    while True:
        name = f"{stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        folder = state_folder(root) / "runs" / name
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


def is_running(folder: Path) -> bool:
    """Does a process still work on the run in `folder`?"""
    if not folder.is_dir():
        return False
    try:
        with lock_of(folder).acquire(blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # a store that one may only read, or a disk without locks
        return False


def close_if_dead(folder: Path) -> Record | None:
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
            remove_unfinished(folder)
            message = "its process ended without a trace: SIGKILL, a crash or power loss"
            end = RunEnded(record.last_sign_of_life, "KILLED", message)
            RecordWriter(folder, record.size).write(end)
            return record
    except Timeout:
        return None
