"""How training shows itself on the console: a bar on a terminal, a line an epoch elsewhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ShowEpoch(Protocol):
    """Shows one finished epoch."""

    def __call__(self, epoch: int, means: Mapping[str, float]) -> None: ...


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
    last = time.perf_counter()

    def show(epoch: int, means: Mapping[str, float]) -> None:
        nonlocal last
        now = time.perf_counter()
        losses = "  ".join(f"{key} {value:.4f}" for key, value in means.items())
        console.print(f"{name} epoch {epoch}/{total}  {losses}  {now - last:.1f} s", markup=False)
        last = now
        bar.advance(task)

    with bar:
        yield show
