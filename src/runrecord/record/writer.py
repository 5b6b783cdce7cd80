"""Writing a record while its run goes on."""

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import TypeVar
from urllib.parse import quote

from runrecord.files import link, make_folder, sha256, sync_folder, write_atomic
from runrecord.record.events import (
    EVENTS,
    LOCK,
    START,
    Contents,
    Event,
    File,
    Logged,
    RunEnded,
    RunStarted,
    as_json,
    files_of,
    without_files,
)
from runrecord.record.reader import files_in
from runrecord.safety.secrets import OWN_TAGS, fit, redact_words
from runrecord.safety.text import printable, say

E = TypeVar("E", bound=Event)
_TEXTS = {"params", "tags", "config", "message", "traceback"}  # fields that may hold a secret


class RecordWriter:
    """Writes the record in `folder` while the run goes on, event by event, each safe on the disk.

    An event that could not be written (disk full) is kept and written before the next one, with
    its files: bytes are kept; a file that lies elsewhere is copied then, if it has not changed.
    """

    def __init__(self, folder: Path, size: int = 0) -> None:
        """Begin a record in `folder`, or continue one whose lines have `size` bytes so far."""
        self.folder = folder
        self._size = size
        self._pending: list[tuple[Event, bytes, Contents]] = []
        self._lost: set[str] = set()

    def keep(
        self, folder: str, title: str, content: bytes | Path, suffix: str = ""
    ) -> tuple[File, Contents]:
        """The name of content in the record, and where it is from now on, for `write`.

        A file is copied into the record first and the copy is hashed: whoever writes to the file
        meanwhile changes neither. If there is no room for a copy, the file itself is hashed.

        Raises:
            OSError: the file cannot be read.
        """
        if isinstance(content, Path):
            with suppress(OSError):  # of the record; the file's own is raised below
                copy = self._copy(content, self.folder / folder)
                file = file_for(folder, title, sha256(copy), suffix)
                _rename(copy, self.folder / file.name)
                return file, {file.name: self.folder / file.name}
        file = file_for(folder, title, sha256(content), suffix)
        return file, {file.name: content}

    def write(self, event: Event, contents: Contents | None = None) -> None:
        """Add an event without its secrets, and the files that it names.

        Raises:
            OSError: it is not on the disk (yet).
            ValueError: it could not be read again; the message is a clause.
        """
        event = without_secrets(event)
        self._pending.append((event, as_json(event), contents or {}))
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
            make_folder(new)
            for name, path in files_in(self.folder).items():
                if name != LOCK:
                    make_folder((new / name).parent)
                    if name in (START, EVENTS):
                        write_atomic(new / name, path)
                    else:
                        link(path, new / name)
            copy = RecordWriter(new, self._size)
            copy._pending, copy._lost = [*self._pending], self._lost
            copy.write(end, contents)
            for folder in (new, *new.glob("*/")):
                sync_folder(folder)
            if destination.exists():
                destination.rename(old)
            new.rename(destination)
            with suppress(OSError):  # it is there, until the power fails
                sync_folder(destination.parent)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            name = error.filename or str(destination)
            raise OSError(error.errno, os.strerror(error.errno or 0), name) from error

    def write_pending(self) -> None:
        """Write what could not be written before, if anything; OSError: it still cannot be."""
        while self._pending:
            event, data, contents = self._pending[0]
            lost = {
                file.name
                for file in files_of(event)
                if file.name in contents and not self._take(file, contents[file.name])
            }
            if isinstance(event, RunStarted):
                write_atomic(self.folder / START, data)
            else:
                if lost:  # checkpoints count events: one that is about nothing else stays, empty
                    kept = without_files(event, lost)
                    data = as_json(kept or Logged(event.time, getattr(event, "step", 0)))
                self._append(data)
            self._pending = self._pending[1:]

    def _take(self, file: File, content: bytes | Path) -> bool:
        """Copy a file that an event names into the record; False if it has changed since."""
        target = self.folder / file.name
        if target.exists():
            return True
        if isinstance(content, bytes):
            write_atomic(target, content)
            return True
        if content.exists():
            copy = self._copy(content, target.parent)
            if sha256(copy) == file.sha256:
                _rename(copy, target)
                return True
            copy.unlink()
        if file.name not in self._lost:
            self._lost.add(file.name)
            say(
                f"warning: {printable(str(content))} is lost to the run's record: it could not be "
                "written when it was logged, and has changed or is gone since."
            )
        return False

    def _copy(self, file: Path, folder: Path) -> Path:
        copy = folder / f".{token_hex(4)}.new"
        write_atomic(copy, file)
        return copy

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
            if not self._size:
                sync_folder(self.folder)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
        self._size += len(data)


def _rename(copy: Path, target: Path) -> None:
    """Give a copy its name, unless the record has the same file already."""
    if target.exists():
        with suppress(OSError):
            copy.unlink()
    else:
        copy.rename(target)
        sync_folder(target.parent)


def without_secrets(event: E, environment: Mapping[str, str] = os.environ) -> E:
    """An event whose texts are fit to leave; names, digests and files are as they were."""
    changes = {name: fit(vars(event)[name], environment) for name in _TEXTS & vars(event).keys()}
    if isinstance(event, RunStarted):
        changes["command"] = tuple(redact_words(event.command, environment))
        changes["tags"] |= {name: text for name, text in event.tags.items() if name in OWN_TAGS}
        if event.dataset:
            changes["dataset"] = replace(event.dataset, **fit(vars(event.dataset), environment))
    if isinstance(event, RunEnded):
        changes["changed"] = tuple(fit(event.changed, environment))
    changed = {name: new for name, new in changes.items() if new != getattr(event, name)}
    return replace(event, **changed) if changed else event


def file_for(folder: str, title: str, digest: str, suffix: str = "") -> File:
    """The name of content in a record: a few letters of its title, and its SHA-256."""
    slug = re.sub(r"[^a-z0-9]+", "-", str(title).lower())[:40].strip("-")
    name = "-".join(filter(None, [slug, digest[:12]]))
    return File(f"{folder}/{name}{quote(suffix, safe='', errors='replace')[:20]}", digest)
