"""`runrecord compare A B`: why do two runs differ?"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from runrecord.cli.console import LONGEST_CELL, page
from runrecord.errors import UserError
from runrecord.lookup import find_record
from runrecord.paths import repo_root
from runrecord.project import load_project
from runrecord.provenance.git import GitFailed, commit_of, git
from runrecord.record.schema import RecordRefused, strict_json
from runrecord.text import printable, shown
from runrecord.verify.compare import Comparison, MetricDifference, Pair, compare, largest_of


def show_comparison(first: str, second: str, tolerance: float, as_json: bool) -> None:
    """Print all that differs between two runs, and the verdict.

    Raises:
        UserError: a run is not known, or its record is gone or damaged.
    """
    root = repo_root()
    records = find_record(root, first), find_record(root, second)
    code = load_project(root).code
    try:
        found = compare(*records, tolerance, code)
    except RecordRefused as error:
        raise UserError(f"{first} or {second}: its record cannot be used: {error}") from None
    if as_json:
        print(json.dumps(strict_json(found.as_json()), indent=2))
        return
    names = records[0].start.id, records[1].start.id
    console = page()
    if found.commits:
        stat = _diff_stat(root, found.commits, code)
        console.print(f"Commits: {found.commits[0]}, {found.commits[1]}\n{stat}".rstrip())
    show_differences(console, names, found)
    console.print(_sentence(found))


def show_differences(console: Console, names: tuple[str, str], found: Comparison) -> None:
    """Print a table of each kind of thing that differs between two runs."""
    for title, differences in (
        ("Code (SHA-256)", found.code),
        ("Params", found.params),
        ("Data (SHA-256)", found.data),
        ("Environment", found.environment),
    ):
        if differences:
            console.print(_pairs(title, names, differences))
    if found.metrics:
        console.print(_metrics(names, found.metrics))
    if found.model:
        console.print(_pairs("Model (SHA-256)", names, {"model": found.model}))
    if found.outs:
        console.print(_pairs("Files (SHA-256)", names, found.outs))
    for picture, epoch in found.pictures.items():
        place = f"from epoch {epoch} on" if epoch else "of the evaluation"
        console.print(f"The pictures '{printable(picture)}' {place} differ.")


def _sentence(found: Comparison) -> str:
    if found.verdict == "bit-identical":
        return "Verdict: bit-identical: every metric at every step, and what it wrote."
    return (
        f"Verdict: {found.verdict}: the largest relative difference of an epoch's metrics is "
        f"{largest_of(found.metrics):.2g}, the tolerance {found.tolerance:.2g}."
    )


def _pairs(title: str, names: tuple[str, str], differences: Mapping[str, Pair]) -> Table:
    table = Table("", *names, title=title, title_justify="left")
    for key, values in differences.items():
        shown = ("-" if value is None else _short(str(value)) for value in values)
        table.add_row(*(printable(text, LONGEST_CELL) for text in (key, *shown)))
    return table


def _short(text: str) -> str:
    """A hash by its beginning, other text whole."""
    return text[:12] if len(text) in (40, 64) and set(text) <= set("0123456789abcdef") else text


def _metrics(names: tuple[str, str], differences: Mapping[str, MetricDifference]) -> Table:
    table = Table("", "first differs at", *names, "at the end", "", "largest, relative")
    table.title, table.title_justify = "Metrics", "left"
    for name, metric in differences.items():
        place = f"epoch {metric.epoch}" if metric.epoch else "the evaluation"
        if metric.step is not None:
            place += f", step {metric.step}"
        values = [_shown(value) for value in (*metric.first, *metric.last)]
        table.add_row(printable(name), place, *values, f"{metric.largest:.2g}")
    return table


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.9g}"


def _diff_stat(root: Path, commits: Pair, code: Sequence[str]) -> str:
    """What Git says of the code between two commits; nothing where it lacks one, or refuses."""
    stat = ("diff-tree", "--stat", "--no-color", "--end-of-options", *commits)
    try:
        if None in [commit and commit_of(root, commit) for commit in commits]:
            return ""
        return shown(git(root, *stat, "--", *code).decode(errors="replace"))
    except GitFailed:
        return ""
