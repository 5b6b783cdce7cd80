"""Writing files so that a reader never sees half of one, and naming their content."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` at once or not at all; what `path` held stays until then.

    Raises:
        OSError: naming `path`, when it cannot be written (no space left, no permission).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")  # by one name: what a kill leaves is used
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
    finally:
        with suppress(OSError):  # it is where it belongs
            temporary.unlink()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
