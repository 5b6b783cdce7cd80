"""Writing a record while its run goes on."""

import errno
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from runrecord.events import Contents, Event, File, RunEnded, RunStarted
from runrecord.files import link, sha256, write_atomic
from runrecord.record.reader import files_in
from runrecord.record.schema import EVENTS, LOCK, START, as_json
from runrecord.secrets import without_secrets


class RecordWriter:
    """Writes the record in `folder` while the run goes on, event by event, each safe on the disk.

    An event that could not be written (disk full) is kept and written before the next one.
    """

    def __init__(self, folder: Path, size: int = 0) -> None:
        """Begin a record in `folder`, or go on with one whose lines are `size` bytes so far."""
        self.folder = folder
        self._size = size
        self._pending: list[tuple[str, bytes, Contents]] = []

    def write(self, event: Event, contents: Contents | None = None) -> None:
        """Add an event, and the files that it names.

        Raises:
            OSError: it is not on the disk (yet).
            ValueError: it could not be read again; the message is a clause.
        """
        target = START if isinstance(event, RunStarted) else EVENTS
        self._pending.append((target, as_json(event), contents or {}))
        self.write_pending()

    def seal(self, destination: Path, end: RunEnded, contents: Contents | None = None) -> None:
        """Put a copy of the record, complete with its `end`, at `destination`.

        Of the files that events name there is one, with a name in each: nobody writes them again.

        Raises:
            OSError: naming a file, when it cannot be written.
        """
        new, old = (destination.with_name(f".{destination.name}.{what}") for what in ("new", "old"))
        try:
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)
            new.mkdir(parents=True)
            for name, path in files_in(self.folder).items():
                if name != LOCK:
                    (new / name).parent.mkdir(parents=True, exist_ok=True)
                    (shutil.copyfile if name in (START, EVENTS) else link)(path, new / name)
            copy = RecordWriter(new, self._size)
            copy._pending = list(self._pending)
            copy.write(without_secrets(end), contents)
            if destination.exists():
                destination.rename(old)
            new.rename(destination)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            name = error.filename or str(destination)
            raise OSError(error.errno, os.strerror(error.errno or 0), name) from error

    def write_pending(self) -> None:
        """Write what could not be written before, if anything.

        Raises:
            OSError: it is not on the disk (yet).
        """
        while self._pending:
            target, data, contents = self._pending[0]
            for name, content in contents.items():
                if not (self.folder / name).exists():
                    write_atomic(self.folder / name, content)
            if target == START:
                write_atomic(self.folder / START, data)
            else:
                self._append(data)
            self._pending = self._pending[1:]

    def _append(self, data: bytes) -> None:
        """Add a line; doing it again after a failure is harmless."""
        path = self.folder / EVENTS
        try:
            with path.open("ab", buffering=0) as file:
                file.truncate(self._size)  # half a line, from a write that failed
                written = 0
                while written < len(data):
                    written += file.write(data[written:])
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
        self._size += len(data)


def place_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put the files of a record from another machine in `folder`; it counts once it is whole.

    Raises:
        OSError: a file cannot be written, or would be outside.
    """
    for name in sorted(files, key=START.__eq__):
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise OSError(errno.EINVAL, "leads outside the folder", name)
        write_atomic(target, files[name])


def file_for(folder: str, title: str, content: bytes | Path, suffix: str = "") -> File:
    """What content is called in a record, which has `folder`s: by its title and its SHA-256.

    Titles are data and may be anything; in a file's name, a few of their letters stay.
    """
    digest = sha256(content)
    slug = re.sub(r"[^a-z0-9]+", "-", str(title).lower())[:40].strip("-")
    name = "-".join(filter(None, [slug, digest[:12]]))
    return File(f"{folder}/{name}{quote(suffix, safe='', errors='replace')[:20]}", digest)
