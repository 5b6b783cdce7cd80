"""What a script gives its run, as events hold it; a UserError says what they cannot."""

import io
import time
from collections.abc import Callable, Mapping
from operator import index
from typing import Any, Protocol, TypeVar

import numpy as np

from runrecord.errors import UserError
from runrecord.record.embedding import Embedding, pack
from runrecord.record.events import File
from runrecord.record.picture import is_png, png_of
from runrecord.record.schema import why
from runrecord.safety.text import printable

E = TypeVar("E")
ANY_FILE = File("any", "0" * 64)
"""Stands for a file until its content is known."""


class Figure(Protocol):
    """A figure of Matplotlib's kind."""

    def savefig(self, file: io.BytesIO, /, *, format: str) -> object: ...  # noqa: A002


def made(make: Callable[[], E]) -> E:
    """What `make` makes of a script's values."""
    try:
        return make()
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"this cannot be recorded: {printable(why(error))}.") from None


def numbers_of(values: Mapping[str, float]) -> dict[str, float]:
    """The values of metrics."""
    return {name: number_of(name, value) for name, value in values.items()}


def number_of(name: str, value: Any) -> float:
    """A metric's value; NumPy's and PyTorch's numbers are taken too."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # as PyTorch says it
        raise UserError(
            f"this cannot be recorded: {name!r} is {repr(value)[:60]}, which is no number."
        ) from None


def points_of(title: str, points: Any) -> list[tuple[int, float]]:
    """The points of a curve."""
    try:
        return [(index(x), number_of(title, y)) for x, y in points]
    except (TypeError, ValueError):
        raise UserError(
            f"this cannot be recorded: {title!r} is {repr(points)[:60]}, which is no list of pairs "
            "of a whole number and a number."
        ) from None


def packed(model: str, embedding: Embedding) -> bytes:
    """An embedding, as the content of a file."""
    try:
        return pack(embedding)
    except ValueError as error:
        raise UserError(f"this cannot be recorded: {model!r} has {error}.") from None


def checked_png(title: str, png: bytes) -> bytes:
    """A PNG file's content, if it is one."""
    if not is_png(io.BytesIO(png)):
        raise UserError(f"this cannot be recorded: {title!r} is no PNG file's content.")
    return png


def png_from(pixels: "np.ndarray[Any, Any]") -> bytes:
    """The PNG file of some pixels."""
    try:
        return png_of(np.asarray(pixels))
    except ValueError as error:
        raise UserError(str(error)) from None


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
