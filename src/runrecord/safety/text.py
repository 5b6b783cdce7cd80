"""Text made harmless: what comes from elsewhere and is shown to a person."""

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from unicodedata import category

from runrecord.safety.secrets import redact

_STACKED = 5  # marks on one letter: more are drawn over the lines above
_LONGEST = 1000  # characters of what went wrong


def printable(text: str, longest: int | None = None) -> str:
    """`text` as one line without what would steer a terminal: such characters become U+FFFD.

    Those are controls (ESC, CR and NUL among them), what turns or hides text (bidirectional and
    zero-width characters), separators of lines, surrogates, and what is no character; and marks
    piled on marks. Of a text of more than `longest` characters, so many are shown.
    """
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]}… ({len(text)} characters)"
    if text.isascii() and text.isprintable():
        return text
    found, marks = [], 0
    for character in text:
        marks = marks + 1 if category(character) in ("Mn", "Me") else 0
        fit = (character.isprintable() and marks <= _STACKED) or character == "\t"
        found.append(character if fit else "\ufffd")
    return "".join(found)


def shown(text: str) -> str:
    """`text` as it may stand on a terminal: without secrets, line by line printable."""
    return "\n".join(map(printable, redact(text).splitlines()))


def reason(error: BaseException) -> str:
    """The first line of what went wrong, fit to be shown, without a full stop."""
    return clause(str(error).strip() or repr(error))


def clause(text: str) -> str:
    """The first line of a text, fit to be shown, without a full stop."""
    first = next(iter(text.splitlines()), "")
    return printable(redact(first.rstrip(".")), _LONGEST)


def plain(value: object) -> str:
    """A value as text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~-])", r"\\\1", str(value)).replace("\n", " ")


def some(names: Sequence[str], most: int = 4) -> str:
    """The first of those names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return printable(", ".join(names[:most])) + more


def say(text: str) -> None:
    """Print a line on standard error; nothing depends on its reader.

    A console that is closed, full or gone does not take it, and a letter that it does not have is a
    question mark.
    """
    with suppress(OSError, ValueError, AttributeError):
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), file=sys.stderr, flush=True)
