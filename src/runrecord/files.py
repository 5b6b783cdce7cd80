"""Writing files so that a reader never sees half of one, and naming their content."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_atomic(path: Path, content: bytes | Path) -> None:
    """Write `content`, or a file's, to `path` at once or not at all; what it held stays until then.

    Raises:
        OSError: naming `path`, when it cannot be written (no space left, no permission).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            if isinstance(content, Path):
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sha256(content: bytes | Path) -> str:
    """The SHA-256 of some content, or of a file's, in hexadecimal."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_files(files: Mapping[str, Path]) -> str:
    """The SHA-256 of a folder's files: of their names and SHA-256, in the order of the names."""
    lines = [f"{sha256(files[name])}  {name}\n" for name in sorted(files)]
    return sha256("".join(lines).encode())


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, or of all files in a folder."""
    return sha256_of_files(files_inside(path)) if path.is_dir() else sha256(path)


def files_inside(folder: Path) -> dict[str, Path]:
    """The files of a folder by their names in it, less compiled code, as .dvcignore has it."""
    found = (file for file in folder.rglob("*") if file.is_file())
    inside = [file for file in found if "__pycache__" not in file.parts]
    return {file.relative_to(folder).as_posix(): file for file in inside}
