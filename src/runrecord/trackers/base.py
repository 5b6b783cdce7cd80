"""What all trackers share: what a sink is, and titles and values as MLflow takes them."""

import json
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from runrecord.files import copy, sha256
from runrecord.record.events import Contents, Event, File
from runrecord.safety.text import reason

LONGEST_TAG = 5000  # characters of a tag that are sent, and compared: MLflow may keep no more
SYSTEM = "system/"
"""Before the names of metrics that tell of the machine: MLflow gives them a page of their own."""
_LONGEST_NAME, _LONGEST_VALUE = 250, 6000  # characters that MLflow takes
_LONGEST_KEY = 150  # of a picture: the name of its file has step, time and more besides


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
        """Show what is held back."""

    def close(self) -> None:
        """Flush, and let go of what is open."""
        self.flush()

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


def name_for(title: str) -> str:
    """The name of a metric, param or tag: what MLflow refuses in it becomes `_xHEX_`."""
    return _escaped(title, r"[^\w.\- :/]", _LONGEST_NAME)


def key_for(title: str) -> str:
    """The key of a picture: MLflow takes ASCII there."""
    return _escaped(title, r"[^A-Za-z0-9_.\- /]", _LONGEST_KEY)


def flat(title: str) -> str:
    """A title as the name of one file or folder, which is never within another one."""
    return key_for(title).replace("/", "~")


def model_for(title: str) -> str:
    """The name of a model: what means something in MLflow's addresses is refused there, too."""
    return _escaped(title, r"[^A-Za-z0-9_\- ]", _LONGEST_KEY)


def text_for(value: object) -> str:
    """A param's value; one that MLflow would refuse is cut, and named by its SHA-256."""
    text = json.dumps(value, ensure_ascii=False) if is_nested(value) else str(value)
    text = text.replace("\0", "\ufffd")  # PostgreSQL has none
    if len(text) <= _LONGEST_VALUE:
        return text
    return f"{text[:5900]}… SHA-256 {sha256(text.encode())}"


def is_nested(value: object) -> bool:
    """Is that more than one plain value, or none, or a number that no double holds?"""
    large = isinstance(value, int) and value.bit_length() > 53
    return large or value is None or isinstance(value, list | dict)


def _escaped(title: str, refused: str, longest: int) -> str:
    escape_like = rf"_(?=x[0-9a-f]*(?:_|{refused}))"  # so what is refused will begin with `_`
    text = re.sub(f"{escape_like}|{refused}", lambda found: _code(found[0]), title)
    parts = [  # no path that leads elsewhere
        "".join(map(_code, part)) or "_x_" if part in ("", ".", "..") else part
        for part in text.split("/")
    ]
    name = "/".join(parts)
    return name if len(name) <= longest else f"{name[: longest - 70]}-{sha256(title.encode())}"


def _code(character: str) -> str:
    return f"_x{ord(character):x}_"
