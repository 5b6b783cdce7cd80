"""What a sweep costs beside its stages: `make bench-scale`.

A stage that waits takes nothing of the machine: what a trial takes longer is the sweep's own. The
same params run as the bare stage, by `dvc exp run` one after another, and as sweeps of several
jobs at once; each way in a copy of its own, the project the tests' toy.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from bench import ROOT
from rich.console import Console
from rich.table import Table

sys.path.append(str(ROOT / "tests"))
from workspaces import RECORD_ONLY, TOY, Workspace, new_project, with_results

WAIT = "import json, os, sys, time\ntime.sleep(float(os.environ['WAIT']))\n"
PROJECT = {**TOY, "train.py": TOY["train.py"].replace("import json, os, sys\n", WAIT)}
JOBS = (1, 2, 4)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--wait", type=float, default=10.0, help="seconds of a stage")
    given = parser.parse_args()
    rates = [0.51 + 0.01 * number for number in range(given.trials)]  # 0.5 is in the run cache
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = with_results(new_project(Path(folder) / "base", PROJECT), WAIT="0")
        variables = {**RECORD_ONLY, "WAIT": str(given.wait)}
        seconds["bare stage"] = _seconds(
            base.copy(Path(folder) / "bare"),
            [("python", "train.py")] * given.trials,
            {**variables, "DVC_STAGE": "train"},
        )
        seconds["dvc exp run"] = _seconds(
            base.copy(Path(folder) / "hand"),
            [("dvc", "exp", "run", "--quiet", "-S", f"train.lr={one}", "train") for one in rates],
            variables,
        )
        for jobs in JOBS:
            sweep = (
                *("runrecord", "sweep", f"train.lr={','.join(map(str, rates))}"),
                *("--metric", "metrics.json:Length", "--jobs", str(jobs)),
            )
            copy = base.copy(Path(folder) / f"sweep-{jobs}")
            seconds[f"sweep, jobs {jobs}"] = _seconds(copy, [sweep], variables)
    results = {"trials": given.trials, "wait": given.wait, "seconds": seconds}
    Console(highlight=False).print(table(results))
    (ROOT / "benchmarks" / "scale.json").write_text(json.dumps(results, indent=2) + "\n")


def _seconds(workspace: Workspace, commands: list[tuple[str, ...]], more: dict[str, str]) -> float:
    begun = time.perf_counter()
    for command in commands:
        workspace.run(*command, environment=more)
    return time.perf_counter() - begun


def table(results: dict[str, object]) -> Table:
    """Trials an hour, and what each costs more than its stage, in seconds and of one minute."""
    trials, seconds = results["trials"], results["seconds"]
    assert isinstance(trials, int)
    assert isinstance(seconds, dict)
    wait = results["wait"]
    shown = Table(
        *("way", "seconds", "trials an hour", "a trial's own", "of a minute"),
        title=f"{trials} trials of a stage that waits {wait} s",
    )
    for way, taken in seconds.items():
        jobs = int(way.rpartition(" ")[2]) if way.startswith("sweep") else 1
        own = taken * jobs / trials - seconds["bare stage"] / trials
        row = (f"{taken:.0f}", f"{trials / taken * 3600:.0f}", f"{own:.1f} s", f"{own / 60:.0%}")
        shown.add_row(way, *row)
    return shown


if __name__ == "__main__":
    main()
