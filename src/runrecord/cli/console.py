"""What commands print on."""

from rich.console import Console

from runrecord.safety.text import printable, reason

LONGEST_CELL = 2000  # characters of a value in a table
_PAGE = 200  # columns


def page() -> Console:
    """Where tables are printed: on a terminal as wide as it is, else wide enough for all."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PAGE  # no window that it must fit: let no value be cut off
    return console


def say(text: str) -> None:
    """Print a line, harmless whatever it holds."""
    print(printable(text))


def say_failure(label: str, error: Exception) -> None:
    """Say which record cannot be used, and why."""
    say(f"{label}: {reason(error)}.")
