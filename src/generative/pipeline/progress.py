"""How training shows itself on the console: a bar on a terminal, a line an epoch elsewhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ShowEpoch(Protocol):
    """Shows one finished epoch."""

    def __call__(self, epoch: int, means: Mapping[str, float], seconds: float) -> None: ...


@contextmanager
def epochs(name: str, total: int) -> Iterator[ShowEpoch]:
    """Show `total` epochs of training `name`, each as it ends."""
    console = Console(soft_wrap=True, highlight=False)
    bar = Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task(name, total=total)

    def show(epoch: int, means: Mapping[str, float], seconds: float) -> None:
        losses = "  ".join(f"{key} {value:.4f}" for key, value in means.items())
        console.print(f"{name} epoch {epoch}/{total}  {losses}  {seconds:.1f} s", markup=False)
        bar.advance(task)

    with bar:
        yield show
