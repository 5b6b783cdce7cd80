"""`generative sync` and `generative reap`: make MLflow hold every run that left a record."""

from collections import Counter
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.progress import Progress

from generative.dvc_outs import known_records
from generative.errors import RunFailed, UserError
from generative.record import Files, Record
from generative.redact import printable, reason
from generative.replay import (
    CUT_OFF,
    Run,
    Store,
    alone,
    close_gone,
    distinct,
    read_runs,
    restored,
    spooled,
    write_event_files,
)
from generative.workspace import main_root


def sync(everything: bool, tensorboard: bool) -> None:
    """Make MLflow hold every run of the spool and of the workspace's records.

    Args:
        everything: also those of every commit, DVC experiment and entry of DVC's run cache.
        tensorboard: also write the event files of all of them anew.

    Raises:
        UserError: the tracking store cannot be reached.
        RunFailed: some record could not be used; all others were.
    """
    root, report = main_root(), _Report()
    with alone(root):
        report.closed(close_gone(root, report.failed))
        runs = read_runs(spooled(root), report.failed, sealed=False)
        runs += read_runs(restored(root), report.failed, sealed=True)
        if everything:
            runs += read_runs(report.found(known_records(root)), report.failed, sealed=True)
        runs = distinct(runs, report.failed)
        ended = [run for run in runs if run.ended]
        store = Store(root)
        report.each("MLflow", ended, store.play)
        print(report.summary())
        if tensorboard:
            report.each("TensorBoard", ended, lambda run: write_event_files(run, root))
    report.conclude()


def reap() -> None:
    """Close as KILLED every run of this host whose process is gone, in its record and in MLflow.

    Live runs and those of other hosts are left alone.

    Raises:
        UserError: the tracking store cannot be reached; the records are closed all the same.
        RunFailed: a record is damaged or cannot be written.
    """
    root, report = main_root(), _Report()
    with alone(root):
        closed = close_gone(root, report.failed)
        report.closed(closed)
        runs = distinct(read_runs(spooled(root), report.failed, sealed=False), report.failed)
        store = Store(root)
        gone = {key for key, shown in store.shown.items() if shown.status == "RUNNING"}
        gone |= {record.start.id for record in closed}
        stale = [run for run in runs if run.ended and run.record.start.id in gone]
        report.each("MLflow", stale, store.play)
        print(f"{len(stale)} closed in MLflow")
    report.conclude()


class _Report:
    """What became of each record, for a person."""

    def __init__(self) -> None:
        outcomes = ("created", "completed", "already there", "failed")
        self._counts = Counter(dict.fromkeys(outcomes, 0))
        self._console = Console(soft_wrap=True, highlight=False, markup=False)

    def failed(self, label: str, error: Exception) -> None:
        self._console.print(f"{printable(label)}: {reason(error)}.")
        self._counts["failed"] += 1

    def closed(self, records: Iterable[Record]) -> None:
        for record in records:
            detail = f"; {CUT_OFF}" if record.cut_off else ""
            self._console.print(f"{record.start.id}: its process is gone: KILLED{detail}.")

    def found(self, known: Iterable[tuple[str, Files | None]]) -> Iterable[tuple[str, Files]]:
        """Those records that can be had."""
        for label, files in known:
            if files is None:
                self._console.print(f"{label}: in neither DVC's cache nor its remote.")
                self._counts["not found"] += 1
            else:
                yield label, files

    def each(self, title: str, runs: list[Run], play: Callable[[Run], str | None]) -> None:
        """Play every run, showing how far it is."""
        with Progress(console=self._console, disable=not self._console.is_terminal) as bar:
            for run in bar.track(runs, description=title):
                if run.sealed and run.record.cut_off:
                    self._console.print(f"{run.label}: {CUT_OFF}.")
                try:
                    outcome = play(run)
                except UserError:
                    raise
                except Exception as error:
                    self.failed(run.label, error)
                else:
                    self._counts.update([outcome] if outcome else [])

    def summary(self) -> str:
        return "MLflow: " + ", ".join(f"{count} {what}" for what, count in self._counts.items())

    def conclude(self) -> None:
        if count := self._counts["failed"]:
            raise RunFailed(f"{count} of the records failed, as said above; all others are used.")
