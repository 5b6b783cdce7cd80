"""What a sink is."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from runrecord.files import copy
from runrecord.record.events import Contents, Event, File
from runrecord.safety.text import reason


class Sink(ABC):
    """Somewhere that events are shown. Made and used on one thread.

    A run's first event is its start. Played the same run again, whole or from a point at which it
    was cut off, a sink shows nothing twice.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    """That it needs."""
    remedy: ClassVar[str]
    """What a person can do about a run that the sink could not show."""
    owed = ""
    """Why it does not show some of the run's files, if it does not; all else is shown."""

    @abstractmethod
    def __init__(self, root: Path) -> None:
        """Open it, for the main repository at `root`; may be slow and may raise."""

    @abstractmethod
    def handle(self, event: Event, contents: Contents) -> None:
        """Show one event, by the next `flush` or a run's end; may be slow and may raise."""

    def flush(self) -> None:  # noqa: B027  (a sink may hold nothing back)
        """Show what is held back, but for files that take long."""

    def upload(self) -> bool:
        """Show some of the files that `flush` left; is there more to do?"""
        return False

    @abstractmethod
    def close(self) -> None:
        """Flush, upload all that there is, and let go of what is open."""

    @classmethod
    def why(cls, error: Exception, root: Path) -> str:  # noqa: ARG003
        """What kept it from showing something, as a clause."""
        return reason(error)


def content_of(file: File, contents: Contents) -> bytes:
    """What is in a file that an event named."""
    content = contents[file.name]
    return content if isinstance(content, bytes) else content.read_bytes()


def write_content(content: bytes | Path, target: Path) -> None:
    """Put what an event's file holds into a new file, whose folder is made if need be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        target.write_bytes(content)
    else:
        copy(content, target)
