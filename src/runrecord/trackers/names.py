"""Titles and values as MLflow takes them: one to one, and back."""

import json
import re

from runrecord.files import sha256

LONGEST_TAG = 5000  # characters of a tag that are sent, and compared: MLflow may keep no more
SYSTEM = "system/"
"""Before the names of metrics that tell of the machine: MLflow gives them a page of their own."""
_LONGEST_NAME, _LONGEST_VALUE = 250, 6000  # characters that MLflow takes
_LONGEST_KEY = 150  # of a picture: the name of its file has step, time and more besides
_ESCAPE = re.compile(r"_x([0-9a-f]*)_")


def name_for(title: str) -> str:
    """The name of a metric, param or tag: what MLflow refuses in it becomes `_xHEX_`."""
    return _escaped(title, r"[^\w.\- :/]", _LONGEST_NAME)


def key_for(title: str) -> str:
    """The key of a picture: MLflow takes ASCII there."""
    return _escaped(title, r"[^A-Za-z0-9_.\- /]", _LONGEST_KEY)


def model_for(title: str) -> str:
    """The name of a model: what means something in MLflow's addresses is refused there, too."""
    return _escaped(title, r"[^A-Za-z0-9_\- ]", _LONGEST_KEY)


def metrics_of(model: str) -> str:
    """What the names of an evaluated model's metrics begin with, by the model's name."""
    return f"{name_for(title_of(model))}/"


def title_of(name: str) -> str:
    """The title that a name was made from, unless it was too long for one."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "", name)


def text_for(value: object) -> str:
    """A param's value; one that MLflow would refuse is cut, and named by its SHA-256."""
    text = json.dumps(value, ensure_ascii=False) if is_nested(value) else str(value)
    return (
        text if len(text) <= _LONGEST_VALUE else f"{text[:5900]}… SHA-256 {sha256(text.encode())}"
    )


def is_nested(value: object) -> bool:
    """Is that more than one plain value, or none?"""
    return value is None or isinstance(value, list | dict)


def _escaped(title: str, refused: str, longest: int) -> str:
    escape_like = rf"_(?=x[0-9a-f]*(?:_|{refused}))"  # so what is refused will begin with `_`
    text = re.sub(f"{escape_like}|{refused}", lambda found: _code(found[0]), title)
    parts = [_part(part) for part in text.split("/")]
    name = "/".join(parts)
    return name if len(name) <= longest else f"{name[: longest - 70]}-{sha256(title.encode())}"


def _part(part: str) -> str:
    """A name may not look like a path that leads elsewhere."""
    if part in ("", ".", ".."):
        return "".join(map(_code, part)) or "_x_"
    return part


def _code(character: str) -> str:
    return f"_x{ord(character):x}_"
