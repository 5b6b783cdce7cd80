"""Writing files so that a reader never sees half of one, and naming their content."""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from secrets import token_hex

_CLONE = 0x40049409  # FICLONE of Linux: two files share their blocks until one is written
_NEW = ".new"  # ends the names of files that are being written
_PART = 2**18  # bytes that are copied at once
_TICK = 50_000_000  # nanoseconds in which a file can change twice and have one time


def write_atomic(path: Path, content: bytes | Path | Callable[[Path], None]) -> None:
    """Write `content` to `path` at once or not at all; what it held stays until then.

    Who may read the file is as the umask has it.

    Args:
        path: of the file.
        content: it, a file that has it, or what writes it to the file that it is given.

    Raises:
        OSError: naming `path`, when it cannot be written (no space left, no permission).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
    finally:
        with suppress(OSError):  # it is where it belongs
            temporary.unlink()


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
        left = os.fstat(old.fileno()).st_size
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
        copy(source, target)
    with suppress(OSError):
        os.chmod(target, os.stat(target).st_mode & 0o444)


def sha256(content: bytes | Path) -> str:
    """The SHA-256 of some content, or of a file's, in hexadecimal.

    A file is read once in a process, until its size or one of its times is another.
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    status = content.stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    if time.time_ns() - max(times) < _TICK:
        return _digest.__wrapped__(str(content))
    return _digest(str(content), status.st_dev, status.st_ino, status.st_size, *times)


@lru_cache(maxsize=2**16)
def _digest(path: str, *_status: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_a_line(name: str) -> str:
    """A file's name that has no newline, as `sha256sum` writes one that has."""
    return name.replace("\\", "\\\\").replace("\n", "\\n") if "\n" in name else name


def sha256_of_files(files: Mapping[str, Path], digest_of: Callable[[Path], str] = sha256) -> str:
    """The SHA-256 of a folder's files: of their names and SHA-256, in the order of the names."""
    lines = [f"{digest_of(files[name])}  {_in_a_line(name)}\n" for name in sorted(files)]
    return sha256("".join(lines).encode())
