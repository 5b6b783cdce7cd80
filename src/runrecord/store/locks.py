"""Locks between processes, as far as the disk has them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock

from runrecord.safety.text import say


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold the lock that is this file, once whoever has it lets go; go on without where none is.

    That is said, once for each folder.

    Raises:
        OSError: naming the file, when it cannot be written.
    """
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if not no_locks(error):
            raise
        warn_no_file_locks(file.parent, error.strerror)
    try:
        yield
    finally:
        with suppress(OSError):  # it goes with the process
            lock.release()


def no_locks(error: OSError) -> bool:
    """Is it the disk that refuses to lock? Else the file could not be opened, and is named."""
    return error.filename is None


@cache
def warn_no_file_locks(folder: Path, why: str) -> None:
    """Say that nothing keeps two processes apart in a folder."""
    say(
        f"warning: the disk of {folder} has no file locks ({why}): let no two commands write there "
        "at once, or keep the repository on a disk of this machine.",
    )
