"""Writing files so that a reader never sees half of one, and naming their content."""

import errno
import fcntl
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from secrets import token_hex

_CLONE = 0x40049409  # FICLONE of Linux: two files share their blocks until one is written
_NEW = ".new"  # ends the names of files that are being written
_PART = 2**18  # bytes that are copied at once
_UNTOLD = 2**26  # bytes at most of a file that the kernel makes up, as in /proc, and says is empty
_LARGE = 2**16  # bytes: a smaller file is read as fast as it is looked up
_SETTLED = 2 * 10**9  # nanoseconds: the coarsest time that a file system keeps
_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n"})  # so that no two names are one line


def write_atomic(path: Path, content: bytes | Path | Callable[[Path], None]) -> None:
    """Write `content` to `path` at once or not at all; who may read it is as the umask has it.

    `content` may be a function that writes to the file that it is given.

    Raises:
        OSError: naming `path`, when it cannot be written (no space left, no permission).
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{token_hex(4)}{_NEW}")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        elif isinstance(content, Path):
            copy(content, temporary)
        else:
            content(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # what wrote it may have made a file of its own
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
    finally:
        with suppress(OSError):  # it is where it belongs
            temporary.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it lies in, unless they are there; its name is on the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Have the disk keep the names in a folder: without it, a power cut may lose a whole file."""
    try:
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:  # others: this disk has no such thing, or its folder is not readable
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise


def remove_unfinished(folder: Path, names: str = "**/.*") -> None:
    """Remove what writers that were killed left below a folder, by a pattern; none may live."""
    with suppress(OSError):  # what stays is removed another time
        for left in folder.glob(f"{names}{_NEW}"):
            left.unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """Copy a file's content as it is now, at no cost where the file system can share it.

    What is appended meanwhile is not copied: a writer that is faster would never let this end.
    """
    with source.open("rb") as old, target.open("wb") as new:
        with suppress(OSError):
            fcntl.ioctl(new, _CLONE, old.fileno())
            return
        left = os.fstat(old.fileno()).st_size or _UNTOLD
        while left and (part := old.read(min(left, _PART))):
            new.write(part)
            left -= len(part)


def link(source: Path, target: Path) -> None:
    """Give a file that is never written again a second name, where the file system allows it.

    Nobody may write it from there on: by either name, it is the same file.
    """
    try:
        os.link(source, target)
    except OSError:
        write_atomic(target, source)
    with suppress(OSError):
        os.chmod(target, os.stat(target).st_mode & 0o444)


def sha256(content: bytes | Path) -> str:
    """The SHA-256 of some content, or of what a file has now, in hexadecimal."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_files(files: Mapping[str, Path], digest_of: Callable[[Path], str] = sha256) -> str:
    """The SHA-256 of a folder's files: of their names and SHA-256, in the order of the names."""
    lines = [f"{digest_of(files[name])}  {name.translate(_ESCAPED)}\n" for name in sorted(files)]
    return sha256("".join(lines).encode())


@contextmanager
def known_digests(path: Path) -> Iterator[Callable[[Path], str]]:
    """A `sha256` of files that reads a large one only if it is not noted in the database `path`.

    A file is known by its device, inode, size and times, which a memory map may leave: no out is
    asked for. One that changed a moment ago is not noted: it could change again within the same
    time.

    Raises:
        sqlite3.Error: the database cannot be used.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as notes:
        notes.execute("PRAGMA synchronous = OFF")  # what is lost with the power is read again
        notes.execute("CREATE TABLE IF NOT EXISTS digests (file BLOB UNIQUE, sha256 TEXT)")

        def digest_of(file: Path) -> str:
            name = _noted_name(file)
            for (digest,) in notes.execute("SELECT sha256 FROM digests WHERE file = ?", [name]):
                return str(digest)
            digest = sha256(file)
            if name and name == _noted_name(file):
                notes.execute("INSERT OR IGNORE INTO digests VALUES (?, ?)", [name, digest])
            return digest

        yield digest_of


def _noted_name(file: Path) -> bytes | None:
    """What a large file is noted by; nothing if it has just changed."""
    found = file.stat()
    age = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns)
    if found.st_size < _LARGE or age < _SETTLED:
        return None
    told = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return hashlib.blake2b(repr(told).encode(), digest_size=16).digest()
