"""What commands print on, and what became of each record, for a person."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from runrecord.errors import RunFailed, UserError
from runrecord.record.events import Files, RecordRefused
from runrecord.record.reader import Record
from runrecord.safety.text import printable, reason
from runrecord.store.catalog import RecordedRun

LONGEST_CELL = 2000  # characters of a value in a table
_PAGE = 200  # columns
_CUT_OFF = "its last line is cut off; the rest is used"


def page() -> Console:
    """Where tables are printed: on a terminal as wide as it is, else wide enough for all.

    Text is printed as it is: no markup, no colors by content, no line broken.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PAGE  # no window that it must fit: let no value be cut off
    return console


def add_row(table: Table, *cells: object) -> None:
    """Add a row, harmless whatever it holds."""
    table.add_row(*(printable(str(cell), LONGEST_CELL) for cell in cells))


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
        self._counts = Counter(dict.fromkeys(outcomes, 0))

    def failed(self, label: str, error: Exception) -> None:
        tell_failure(label, error)
        self._counts["failed"] += 1

    def closed(self, records: Iterable[Record]) -> None:
        for record in records:
            detail = f"; {_CUT_OFF}" if record.cut_off else ""
            tell(f"{record.start.id}: its process is gone: KILLED{detail}.")

    def found(self, known: Iterable[tuple[str, Files | None]]) -> Iterable[tuple[str, Files]]:
        """Those records that can be had."""
        for label, files in known:
            if files is None:
                self._counts["not found"] += 1
            else:
                yield label, files
        if count := self._counts["not found"]:
            tell(
                f"{count} records that Git names come from neither DVC's cache nor its remote: "
                "made elsewhere and not pushed, pruned since, or the remote failed."
            )

    def each(
        self, title: str, runs: list[RecordedRun], play: Callable[[RecordedRun], str | None]
    ) -> int:
        """Play every run, showing how far it is; how many did not fail."""
        done, console = 0, page()
        with Progress(console=console, disable=not console.is_terminal) as bar:
            for run in bar.track(runs, description=title):
                if run.sealed and run.summary.cut_off:
                    tell(f"{run.label}: {_CUT_OFF}.")
                try:
                    outcome = play(run)
                except UserError:
                    raise
                except Exception as error:
                    self.failed(run.label, error)
                else:
                    done += 1
                    self._counts.update([outcome] if outcome else [])
        return done

    def count(self, outcome: str) -> int:
        return self._counts[outcome]

    def summary(self) -> str:
        return "MLflow: " + ", ".join(f"{count} {what}" for what, count in self._counts.items())

    def conclude(self) -> None:
        if count := self._counts["failed"]:
            raise RunFailed(f"{count} of the records failed, as said above; all others are used.")
