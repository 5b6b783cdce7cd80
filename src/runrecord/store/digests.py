"""SHA-256 of large files that were read before, found by what the file system says of them."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from runrecord.files import sha256

_LARGE = 2**16  # bytes: a smaller file is read as fast as it is looked up
_SETTLED = 2 * 10**9  # nanoseconds: the coarsest time that a file system keeps
_MOST = 2**21  # files; the oldest go
_AT_ONCE = 10_000  # files that are noted in one transaction


@contextmanager
def known_digests(path: Path) -> Iterator[Callable[[Path], str]]:
    """A `sha256` of files that reads a large one only if it is not noted in the database `path`.

    A file is known by its device, inode, size and both its times. One that changed a moment ago is
    not noted: it could change again within the same time. Without the database, all are read.
    """
    new: dict[bytes, str] = {}

    def digest_of(file: Path) -> str:
        name = _name(file)
        with suppress(sqlite3.Error):
            for (digest,) in notes.execute("SELECT sha256 FROM digests WHERE file = ?", [name]):
                return str(digest)
        digest = sha256(file)
        if name and name == _name(file):
            new[name] = digest
        if len(new) >= _AT_ONCE:
            note()
        return digest

    def note() -> None:
        with suppress(sqlite3.Error), notes:
            notes.execute("CREATE TABLE IF NOT EXISTS digests (file BLOB UNIQUE, sha256 TEXT)")
            notes.executemany("INSERT OR IGNORE INTO digests VALUES (?, ?)", new.items())
            oldest = "DELETE FROM digests WHERE rowid <= (SELECT max(rowid) FROM digests) - ?"
            notes.execute(oldest, [_MOST])
        new.clear()

    try:
        notes = sqlite3.connect(path)
    except sqlite3.Error:
        yield sha256
        return
    with closing(notes):
        try:
            yield digest_of
        finally:
            note()


def _name(file: Path) -> bytes | None:
    """What a large file is noted by; nothing if it has just changed."""
    found = file.stat()
    age = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns)
    if found.st_size < _LARGE or age < _SETTLED:
        return None
    told = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return blake2b(repr(told).encode(), digest_size=16).digest()
