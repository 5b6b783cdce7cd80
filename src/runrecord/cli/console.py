"""What commands show, for a person or as JSON, and what became of each record."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from runrecord.errors import RunFailed, UserError
from runrecord.record.events import Files, RecordRefused, strict_json
from runrecord.record.reader import Record
from runrecord.safety.text import printable, reason
from runrecord.store.catalog import RecordedRun

_LONGEST_CELL = 2000  # characters of a value in a table
_PAGE = 200  # columns
_CUT_OFF = "its last line is cut off; the rest is used"
Rows = Mapping[str, object] | Sequence[Sequence[object]]
"""A table: what is told of one thing, by name; or a row for each of many, under heads."""
_DOCUMENT: ContextVar[dict[str, Any] | None] = ContextVar("document", default=None)


@contextmanager
def json_document() -> Iterator[None]:
    """Print what a command shows as one JSON document at its end; its sentences go to stderr.

    Of a command that is refused or stopped, that is what it had to show until then.
    """
    token = _DOCUMENT.set(document := dict[str, Any]())
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _DOCUMENT.reset(token)
        print(json.dumps(strict_json(document), indent=2, allow_nan=False))


def note(**values: object) -> None:
    """Put values into the document, which a person is told in another way."""
    if (document := _DOCUMENT.get()) is not None:
        document |= values


def show_table(name: str, rows: Rows, heads: Sequence[str] = (), title: str = "") -> None:
    """Print a table for a person; one with a name, which is for the document too, though empty."""
    one = isinstance(rows, Mapping)
    values = rows if one else [dict(zip(heads, row, strict=True)) for row in rows]
    note(**{name: values} if name else {})
    if rows or (name and heads):
        page().print(drawn(rows, heads, title))


def drawn(rows: Rows, heads: Sequence[str] = (), title: str = "") -> Table:
    """A table as a person sees it, harmless whatever it holds."""
    heads = [*map(printable, heads)]
    table = Table(*heads, title=title, title_justify="left", show_header=bool(heads))
    for row in rows.items() if isinstance(rows, Mapping) else rows:
        table.add_row(*(printable("-" if one is None else str(one), _LONGEST_CELL) for one in row))
    return table


def page() -> Console:
    """Where tables are printed: on a terminal as wide as it is, else wide enough for all.

    Text is printed as it is: no markup, no colors by content, no line broken.
    """
    quiet = _DOCUMENT.get() is not None
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=quiet)
    if not console.is_terminal:
        console.width = _PAGE  # no window that it must fit: let no value be cut off
    return console


def tell(text: str) -> None:
    """Print a line, harmless whatever it holds."""
    print(printable(text))


def tell_failure(label: str, error: Exception) -> None:
    """Say which record cannot be used, and why."""
    tell(f"{label}: {reason(error)}.")


@contextmanager
def refusing(label: str) -> Iterator[None]:
    """Stop the command where a record cannot be used.

    Raises:
        UserError: it is damaged.
    """
    try:
        yield
    except RecordRefused as error:
        raise UserError(f"{label}: its record cannot be used: {error}") from None


class Report:
    """What became of each record."""

    def __init__(self) -> None:
        outcomes = ("created", "completed", "already there", "failed")
        self.counts = Counter(dict.fromkeys(outcomes, 0))

    def failed(self, label: str, error: Exception) -> None:
        tell_failure(label, error)
        self.counts["failed"] += 1

    def closed(self, records: Iterable[Record]) -> None:
        for record in records:
            detail = f"; {_CUT_OFF}" if record.cut_off else ""
            tell(f"{record.start.id}: its process is gone: KILLED{detail}.")

    def found(self, known: Iterable[tuple[str, Files | None]]) -> Iterable[tuple[str, Files]]:
        """Those records that can be had."""
        for label, files in known:
            if files is None:
                self.counts["not found"] += 1
            else:
                yield label, files
        if count := self.counts["not found"]:
            tell(
                f"{count} records that Git names come from neither DVC's cache nor its remote: "
                "made elsewhere and not pushed, pruned since, or the remote failed."
            )

    def each(
        self, title: str, runs: list[RecordedRun], play: Callable[[RecordedRun], str | None]
    ) -> None:
        """Play every run, showing how far it is."""
        console = page()
        for run in track(runs, title, console=console, disable=not console.is_terminal):
            if run.sealed and run.summary.cut_off:
                tell(f"{run.label}: {_CUT_OFF}.")
            try:
                self.counts.update(filter(None, [play(run)]))
            except UserError:
                raise
            except Exception as error:
                self.failed(run.label, error)

    def summary(self) -> str:
        note(mlflow=dict(self.counts))
        return "MLflow: " + ", ".join(f"{count} {what}" for what, count in self.counts.items())

    def conclude(self) -> None:
        if count := self.counts["failed"]:
            raise RunFailed(f"{count} of the records failed, as said above; all others are used.")
