"""What commands cost as runs pile up: `make bench-growth`.

    python benchmarks/growth.py             # some minutes on two cores
    python benchmarks/growth.py --most 100  # a rough look

In a small DVC repository in a temporary folder, ten trainings of two epochs and their evaluations
are logged through the public face; copies of them, in the run store and in MLflow's SQLite file,
make up the rest, each with an id and a seed of its own. Commits of dvc.lock, as large as this
repository's, name records that DVC's cache has. Every sample is a process of its own; what is told
is its time, and its peak memory. Needs neither PyTorch nor data.
"""

import argparse
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from runrecord.store.runs import run_dirs

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "growth.json"
PICTURE = ROOT / "docs" / "pictures" / "growth.png"
COUNTS = (20, 100, 1000, 10_000)
MOST_COMMITS = 1000
MADE = 10  # runs that are logged one by one; the others are copies of them
RUN = """
import numpy as np
from pathlib import Path
from runrecord import start_run

for number in range({made}):
    model = Path(f"model-{{number}}.bin")
    model.write_bytes(b"weights %d" % number)
    with start_run(f"train-{{number}}", params={{"seed": number, "lr": 0.1}}) as run:
        for epoch in run.epochs(2):
            run.log({{"loss": 1 / (number + epoch)}}, within={{"loss": [1.0] * 100}})
        run.image("samples", np.full((8, 8), number, np.uint8))
        run.model(model)
    with start_run("evaluate") as run:
        run.evaluation("model", model, {{"accuracy": number / 10}})
"""
COMMAND = """
import re, sys
from pathlib import Path
from runrecord.cli import main
try:
    main()
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""
Sample = tuple[float, float]
"""Seconds, and MiB at most."""
Results = dict[str, dict[int, Sample]]


def measured(folder: Path, *command: str) -> Sample:
    """How long `runrecord` takes for a command, and how much memory."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *command],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return took, int(done.stderr.splitlines()[-1]) / 1024


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return {**kept, "RUNRECORD_SINKS": "off", "PYTHONPATH": str(ROOT / "src")}


def repository(folder: Path) -> Path:
    """A DVC repository with the first runs in its store, and one as its sealed record."""
    stages = {
        "train-0": {"cmd": "true", "outs": ["records/train"]},
        **{f"train-{number}": {"cmd": f"true {number}"} for number in range(1, MADE)},
        "evaluate": {"cmd": "true"},
    }
    folder.mkdir()
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("")
    (folder / ".gitignore").write_text("*\n!dvc.*\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "add", "dvc.yaml")
    _git(folder, "commit", "--quiet", "--message=stages")
    script = RUN.format(made=MADE)
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=_environment(), check=True)
    return folder


def _git(folder: Path, *arguments: str, given: bytes | None = None) -> None:
    who = ("-c", "user.name=bench", "-c", "user.email=bench@example.com")
    subprocess.run(["git", *who, *arguments], cwd=folder, input=given, check=True)


def fill(folder: Path, count: int) -> None:
    """Let the run store and MLflow hold that many runs, copies of those that are there."""
    there = run_dirs(folder)
    originals = [one for one in there if not one.name.startswith("copy-")]
    copies = []
    for number in range(len(there), count):
        original = originals[number % len(originals)]
        copy = original.with_name(f"copy-{number:06}-{original.name}")
        shutil.copytree(original, copy, ignore=shutil.ignore_patterns("lock"))
        start = json.loads((original / "run.json").read_text())
        start |= {"id": copy.name, "params": {**start["params"], "seed": number}}
        (copy / "run.json").write_text(json.dumps(start))
        copies.append((original.name, copy.name))
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        for number, names in enumerate(copies):
            run_id = f"{count:016x}{number:016x}"
            _copy_row(database, *names, run_id)
            (folder / "mlruns" / run_id).mkdir(parents=True)  # by which its files are known


def _copy_row(database: sqlite3.Connection, original: str, copy: str, run_id: str) -> None:
    """Copy a run of MLflow's, whose tables are as they are: what it logged, and its tags."""
    (source,) = database.execute(
        "SELECT run_uuid FROM tags WHERE key = 'record.id' AND value = ?", [original]
    ).fetchone()
    for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        values = ["?" if name == "run_uuid" else name for name in columns]
        database.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) "
            f"SELECT {', '.join(values)} FROM {table} WHERE run_uuid = ?",
            [run_id, source],
        )
    name = "UPDATE tags SET value = ? WHERE key = ? AND run_uuid = ?"
    database.execute(name, [copy, "record.id", run_id])
    database.execute(name, [copy, "mlflow.runName", run_id])


def commits(folder: Path, count: int) -> None:
    """Let the branch have that many versions of dvc.lock more, each of this repository's size.

    Each names another record, which DVC's cache has.
    """
    text = (ROOT / "dvc.lock").read_text()
    cache = folder / ".dvc" / "cache" / "files" / "md5"
    stream = []
    for number, record in enumerate(run_dirs(folder)[:count]):
        entries = []
        for path in sorted(record.rglob("*")):
            if path.is_file() and path.name != "lock":
                digest = _cached(cache, path.read_bytes())
                entries.append({"md5": digest, "relpath": path.relative_to(record).as_posix()})
        listing = f"{_cached(cache, json.dumps(entries).encode(), '.dir')}.dir"
        lock = yaml.load(text, Loader=yaml.CSafeLoader)
        lock["stages"]["train-ae"]["outs"] = [{"path": "records/ae", "hash": "md5", "md5": listing}]
        for name in lock["stages"].keys() - {"train-ae"}:
            outs = lock["stages"][name]["outs"]
            kept = [out for out in outs if not out["path"].startswith("records/")]
            lock["stages"][name]["outs"] = kept
        content = yaml.dump(lock, Dumper=yaml.CSafeDumper, sort_keys=False)
        message = f"commit refs/heads/results\ncommitter bench <b@example.com> {number} +0000\n"
        stream.append(f"{message}data 1\nx\nM 100644 inline dvc.lock\n")
        stream.append(f"data {len(content.encode())}\n{content}\n")
    _git(folder, "fast-import", "--quiet", "--force", given="".join(stream).encode())


def _cached(cache: Path, content: bytes, ending: str = "") -> str:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    place = cache / digest[:2] / f"{digest[2:]}{ending}"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return digest


def sampled(folder: Path, count: int) -> dict[str, Sample]:
    """What each command costs with that many runs."""
    run = run_dirs(folder)[-1].name
    found = {"runs, first": measured(folder, "runs"), "runs": measured(folder, "runs")}
    measured(folder, "sync")  # which saves MLflow's views
    found["sync, nothing to do"] = measured(folder, "sync")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        query = "SELECT run_uuid FROM tags WHERE key = 'record.id' AND value = ?"
        (run_id,) = database.execute(query, [run]).fetchone()
    for name, command in {
        "report": ("report",),
        "show, by name": ("show", run),
        "show, by MLflow's id": ("show", run_id),
        "which": ("which", "model-3.bin"),
        "reap": ("reap",),
    }.items():
        found[name] = measured(folder, *command)
    if count <= MOST_COMMITS:
        commits(folder, count)
        measured(folder, "sync", "--all")  # some of these records are new to MLflow
        found["sync --all, nothing to do"] = measured(folder, "sync", "--all")
    return found


def draw(results: Results) -> None:
    """Seconds by the number of runs."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, samples in results.items():
        axes.plot([*samples], [seconds for seconds, _ in samples.values()], marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="runs", ylabel="seconds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(PICTURE, dpi=120)


def table(results: Results) -> Table:
    """A row a command: seconds, and MiB at most."""
    counts = sorted({count for samples in results.values() for count in samples})
    shown = Table("runs", *map(str, counts))
    for name, samples in results.items():
        cells = [samples.get(count) for count in counts]
        shown.add_row(name, *(f"{one[0]:.2f} s, {one[1]:.0f} MiB" if one else "-" for one in cells))
    return shown


def main() -> None:
    """Measure, print, and write what docs/performance.md shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="runs, at most")
    most = parser.parse_args().most
    results: Results = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = repository(Path(scratch) / "repository")
        measured(folder, "sync")
        for count in (count for count in COUNTS if count <= most):
            fill(folder, count)
            for name, sample in sampled(folder, count).items():
                results.setdefault(name, {})[count] = sample
            Console(width=150).print(table(results))
    if most < COUNTS[-1]:
        return
    whole = {"cores": os.cpu_count(), "samples": results}
    RESULTS.write_text(json.dumps(whole, indent=2) + "\n")
    draw(results)


if __name__ == "__main__":
    main()
