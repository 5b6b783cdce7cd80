"""Reading a record. It believes nothing that a record says."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from runrecord.events import (
    Contents,
    Event,
    Logged,
    ModelEvaluated,
    ModelSaved,
    RunEnded,
    RunStarted,
    files_of,
)
from runrecord.files import sha256
from runrecord.record.embedding import unpack
from runrecord.record.old_format import start_of_format_1, upgraded
from runrecord.record.picture import is_png
from runrecord.record.schema import (
    EVENTS,
    FORMAT,
    MOST,
    START,
    Files,
    RecordRefused,
    read_line,
    read_start,
)
from runrecord.text import printable


class Record:
    """A record that was written, opened to be read."""

    def __init__(self, files: Files) -> None:
        """Read how the run began, and how much there is.

        Raises:
            RecordRefused: this is no record, is damaged, or comes from a newer version.
        """
        self._files = files
        self.start = self._read_start()
        """How the run began."""
        self.size = 0
        """How many bytes of whole lines there are."""
        self.length = 1
        """How many events there are, the start among them."""
        last = rest = b""
        for line in self._lines():
            if not line.endswith(b"\n"):
                rest = line
                break
            last = line
            self.size += len(line)
            self.length += 1
        self.cut_off = bool(rest)
        """The last line is not whole: the machine stopped while it was written."""
        self.end = _ended(last) if last else None
        self.last_sign_of_life = _time(last) if last else self.start.time
        """When the last event was, in milliseconds since 1970."""

    @property
    def contents(self) -> Contents:
        """Where the files lie that events name; `events` has checked those that it named."""
        return self._files

    def events(self) -> Iterator[Event]:
        """What happened, in order, from the start on.

        Raises:
            RecordRefused: a line or a file it names is damaged, missing or not to be trusted.
        """
        yield self.start
        for number, line in enumerate(self._lines(), start=1):
            if not line.endswith(b"\n"):
                return
            try:
                events = self._events_of(line)
            except ValueError as error:
                raise RecordRefused(f"{EVENTS}, line {number}: {printable(str(error))}.") from None
            yield from events

    def read(self, name: str) -> bytes:
        """The content of a file that an event named.

        Raises:
            RecordRefused: it is missing, cannot be read, or is more than fits into memory.
        """
        self._check_size(name)
        try:
            return self._path(name).read_bytes()
        except OSError as error:
            raise _unreadable(name, error) from None

    def _lines(self) -> Iterator[bytes]:
        if EVENTS not in self._files:
            return
        try:
            with self._files[EVENTS].open("rb") as file:
                while line := file.readline(MOST + 1):
                    if len(line) > MOST:
                        raise RecordRefused(f"{EVENTS}: a line has more than {MOST} bytes.")
                    yield line
        except OSError as error:
            raise _unreadable(EVENTS, error) from None

    def patch(self) -> bytes:
        """What the code differed by from its commit; nothing if it did not."""
        return self.read(self.start.patch.name) if self.start.patch else b""

    def _read_start(self) -> RunStarted:
        content = self.read(START)
        try:
            document: Any = json.loads(content)
            self.format = document["format"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise RecordRefused(f"{START} is not a run's: it is no JSON with a 'format'.") from None
        if self.format not in (1, FORMAT):
            raise RecordRefused(
                f"it has format {_called(str(self.format))}, and this version reads up to "
                f"{FORMAT}; update this checkout."
            )
        try:
            if self.format == 1:
                start, self._models = start_of_format_1(document)
            else:
                start = read_start(content)
        except ValueError as error:
            raise RecordRefused(f"{START}: {printable(str(error))}.") from None
        self._check_files(start)
        return replace(start, tags={key: printable(value) for key, value in start.tags.items()})

    def _events_of(self, line: bytes) -> list[Event]:
        if self.format == 1:
            events = upgraded(line, self._models, self._sha256)
        else:
            events = [read_line(line)]
        for event in events:
            self._check_files(event)
        return events

    def _check_files(self, event: Event) -> None:
        large = {*event.artifacts.values()} if isinstance(event, Logged) else set()
        for file in files_of(event):
            if file not in large and not isinstance(event, ModelSaved):
                self._check_size(file.name)
            if self._sha256(file.name) != file.sha256:
                raise RecordRefused(f"'{_called(file.name)}' is damaged: its SHA-256 is another.")
        if isinstance(event, Logged):
            for file in event.images.values():
                if not is_png(self._path(file.name)):
                    raise RecordRefused(f"'{_called(file.name)}' is no PNG, damaged, or too large.")
        if isinstance(event, ModelEvaluated) and event.embedding:
            try:
                unpack(self.read(event.embedding.name))
            except ValueError as error:
                name = _called(event.embedding.name)
                raise RecordRefused(f"'{name}' holds {error}.") from None

    def _check_size(self, name: str) -> None:
        """Refuse what does not fit into memory, where it has to."""
        try:
            size = self._path(name).stat().st_size
        except OSError as error:
            raise _unreadable(name, error) from None
        if size > MOST:
            raise RecordRefused(f"'{_called(name)}' has {size} bytes, more than {MOST}.")

    def _sha256(self, name: str) -> str:
        try:
            return sha256(self._path(name))
        except OSError as error:
            raise _unreadable(name, error) from None

    def _path(self, name: str) -> Path:
        """Where a file lies. Names are looked up, not joined to a path: none leads outside."""
        if name not in self._files:
            raise RecordRefused(f"it names '{_called(name)}', which is none of its files.")
        return self._files[name]


def _called(name: str) -> str:
    return printable(name, 250)


def _unreadable(name: str, error: OSError) -> RecordRefused:
    return RecordRefused(f"'{_called(name)}' cannot be read: {error.strerror}.")


def files_in(folder: Path) -> Files:
    """The files of the record in `folder`; links are followed where DVC's cache made them."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and _stays(path, folder)
    }


def _stays(path: Path, folder: Path) -> bool:
    """Does `path` stay in `folder`? DVC's links lead to files named after their content's MD5."""
    target = path.resolve()
    if target.is_relative_to(folder.resolve()):
        return True
    in_cache = re.fullmatch(r".*/files/md5/([0-9a-f]{2})/([0-9a-f]{30})", target.as_posix())
    if in_cache is None:
        return False
    with target.open("rb") as file:
        content = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False))
    return content.hexdigest() == "".join(in_cache.groups())


def _ended(line: bytes) -> RunEnded | None:
    try:
        event = read_line(line)
    except ValueError:
        return None
    return event if isinstance(event, RunEnded) else None


def _time(line: bytes) -> int:
    try:
        return int(json.loads(line)["time"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise RecordRefused(f"the last line of {EVENTS} is damaged.") from None
