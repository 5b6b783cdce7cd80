"""`runrecord compare A B`: why do two runs differ?"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from runrecord.cli.console import add_row, page, refusing
from runrecord.cli.runs import find_record
from runrecord.git.commands import GitFailed, commit_of, git
from runrecord.project import load_project, repo_root
from runrecord.safety.text import printable, shown
from runrecord.verify.compare import (
    CODE,
    COMMIT,
    DATA,
    ENVIRONMENT,
    PARAM,
    RESULTS,
    TAG,
    Comparison,
    Difference,
    Place,
    compare,
    how_unequal,
    value_text,
    where,
)

_TITLES = {
    "Code": (CODE,),
    "Params": (PARAM,),
    "Data": (DATA,),
    "Environment": (ENVIRONMENT,),
    "Tags, which are not compared": (TAG,),
    "Results": RESULTS,
}


def show_comparison(first: str, second: str, tolerance: float, as_json: bool) -> None:
    """Print all that differs between two runs, and the verdict.

    Raises:
        UserError: a run is not known, or its record is gone or damaged.
    """
    root = repo_root()
    records = find_record(root, first), find_record(root, second)
    project = load_project(root)
    with refusing(f"{first} or {second}"):
        found = compare(*records, tolerance, project.code, project.packages)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return
    console = page()
    if commits := found.of(COMMIT):
        stat = _diff_stat(root, commits[0], project.code)
        pair = (printable(str(commits[0].first)), printable(str(commits[0].second)))
        console.print(f"Commits: {pair[0]}, {pair[1]}\n{stat}".rstrip())
    show_differences(console, (records[0].start.id, records[1].start.id), found)
    console.print(printable(_sentence(found)))


def show_differences(console: Console, names: tuple[str, str], found: Comparison) -> None:
    """Print a table of each kind of thing that differs between two runs."""
    for title, kinds in _TITLES.items():
        if listed := found.of(*kinds):
            console.print(difference_table(title, names, listed))
    if found.not_compared:
        console.print(printable(f"Not compared: {'; '.join(found.not_compared)}."))


def difference_table(title: str, names: tuple[str, str], found: Iterable[Difference]) -> Table:
    """A row for each place that differs, whatever the step: where first, in how many values."""
    groups: dict[Place, list[Difference]] = {}
    for one in sorted(found, key=lambda one: (one.place.kind, one.place.title)):
        groups.setdefault(one.place._replace(step=None), []).append(one)
    table = Table("", *names, title=title, title_justify="left")
    counted = any(len(group) > 1 or isinstance(group[0].first, float) for group in groups.values())
    if counted:
        table.add_column("values that differ")
        table.add_column("largest, relative")
    for group in groups.values():
        first = min(group, key=lambda one: (one.place.step or 0, one.index))
        name = where(first) if first.place.kind in RESULTS else first.place.title
        largest = max(one.relative for one in group)
        relative = f"{largest:.2g}" if isinstance(first.first, float) else ""
        counts = (len(group), relative) if counted else ()
        add_row(table, name, value_text(first, False), value_text(first, True), *counts)
    return table


def _sentence(found: Comparison) -> str:
    if found.verdict == "bit-identical":
        less = ", less what is not compared" if found.not_compared else ""
        return f"Verdict: bit-identical: every metric at every step, and what it wrote{less}."
    if found.verdict == "nothing to compare":
        return "Verdict: nothing to compare: neither has a metric, file or out."
    return f"Verdict: {found.verdict}: {how_unequal(found)}."


def _diff_stat(root: Path, commits: Difference, code: Sequence[str]) -> str:
    """What Git says of the code between two commits; nothing where it lacks one, or refuses."""
    pair = [value for value in (commits.first, commits.second) if isinstance(value, str)]
    stat = ("diff-tree", "--stat", "--no-color", "--end-of-options", *pair)
    try:
        if len(pair) < 2 or None in [commit_of(root, commit) for commit in pair]:
            return ""
        return shown(git(root, *stat, "--", *code).decode(errors="replace"))
    except GitFailed:
        return ""
