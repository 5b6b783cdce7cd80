"""Where the time of `dvc repro` went, by the records that its stages left: `make bench-parts`.

start     from the end of the stage before: DVC, Python, imports, the data
first     training: its first epoch, which finds caches cold and MLflow being imported
others    training: all other epochs, with test losses, checkpoint and record
rest      all else: download, evaluation; of a training, its model
"""

import json
from pathlib import Path
from typing import Any

from bench import ROOT
from rich.console import Console
from rich.table import Table


def main() -> None:
    """Print the table."""
    records = [_read(start.parent) for start in (ROOT / "records").glob("*/run.json")]
    records.sort(key=lambda record: record[0])
    shown = Table("stage", "start", "first", "others", "rest", "in all", title="seconds")
    before, sums = None, [0.0] * 5
    for moments, name in records:
        began, *epochs, ended = moments
        start = 0.0 if before is None else began - before
        first = epochs[0] - began if epochs else 0.0
        others = epochs[-1] - epochs[0] if epochs else 0.0
        parts = [start, first, others, ended - began - first - others, start + ended - began]
        shown.add_row(name, *(f"{part:.1f}" for part in parts))
        sums = [a + b for a, b in zip(sums, parts, strict=True)]
        before = ended
    shown.add_row("all", *(f"{part:.1f}" for part in sums))
    Console(highlight=False).print(shown)


def _read(record: Path) -> tuple[list[float], str]:
    """When the run began, each epoch of a training ended, and the run ended; and its stage."""
    start: dict[str, Any] = json.loads((record / "run.json").read_text())
    lines = (record / "events.jsonl").read_text().splitlines()
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    ended = [one["time"] for one in events if one.get("steps")]
    times = [start["time"], *ended, events[-1]["time"]]
    return [time / 1000 for time in times], start["stage"]


if __name__ == "__main__":
    main()
