"""How fast training is beside its peers, measured in one interleaved run: `make bench-peers`.

    python benchmarks/peers.py PYTHON              # PYTHON has JAX: peers-requirements.txt
    python benchmarks/peers.py PYTHON --rounds 1   # a rough look
    python benchmarks/peers.py PYTHON --whole      # afterwards: all epochs, ours alone
    python benchmarks/peers.py PYTHON --windows    # afterwards: short ones, quiet and under load

Every sample is a process of its own; the kinds alternate; medians without each sample's first
epoch. All train the same layers on the same images with the same sizes and optimizer.

    stage       stages/train_*.py as dvc runs it: test losses, record, MLflow, TensorBoard too
    loop        our loop with test losses, without any of these
    plain       training alone: PyTorch's own layers and Adam, images resident
    compiled    the same under torch.compile, where there is a C++ compiler
    jax, scan   training alone: JAX, an epoch one compiled scan
    jax, step   training alone: JAX, a compiled call a step

In a window each trains alone, on a few thousand images many times: the least is what the machine
can do between what its neighbours do. Under load a process keeps each core busy.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from bench import ROOT, Workspace
from rich.console import Console
from rich.table import Table

from generative.hardware import device_name
from generative.models.registry import REGISTRY

RESULTS = ROOT / "benchmarks" / "peers.json"
EPOCHS = 4
IMAGES = 6400  # of a window
WINDOWS = 15  # the first, which compiles, is not counted
OURS = ("stage", "loop")
PEERS = ("plain", "compiled", "jax, scan", "jax, step")


def main() -> None:
    """Measure, write the results, and print the table."""
    parser = argparse.ArgumentParser(description="How fast training is beside its peers.")
    parser.add_argument("jax", help="a Python that has JAX")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="all epochs, ours alone, instead")
    parser.add_argument("--windows", action="store_true", help="short ones, also under load")
    given = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        workspace.epochs("stage", "vae")  # makes MLflow's database: once in its life, untimed
        if given.windows:
            results = json.loads(RESULTS.read_text())
            results["windows"] = _windows(workspace, given.jax, given.rounds, console)
        elif given.whole:
            results = json.loads(RESULTS.read_text())
            results["whole"] = {model: _whole(workspace, model) for model in REGISTRY}
        else:
            results = _beside_peers(workspace, given.jax, given.rounds, console)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    console.print(table(results))


def _beside_peers(workspace: Workspace, jax: str, rounds: int, console: Console) -> dict[str, Any]:
    """Seconds of an epoch of each model, of each kind: medians."""
    kinds = [kind for kind in (*OURS, *PEERS) if kind != "compiled" or shutil.which("c++")]
    seconds: dict[str, dict[str, list[float]]] = {
        model: {kind: [] for kind in kinds} for model in REGISTRY
    }
    for number in range(rounds):
        for model in REGISTRY:
            for kind in kinds if number % 2 == 0 else reversed(kinds):
                if kind.startswith("jax"):
                    taken = _jax(jax, model, kind)
                else:
                    taken = workspace.epochs(kind, model)
                seconds[model][kind] += taken
                shown = ", ".join(f"{one:.2f}" for one in taken)
                console.print(f"{model:4} {kind:9} {shown} s an epoch")
    return {
        "device": device_name(torch.device("cpu")),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "jax": _output(jax, "-c", "import jax; print(jax.__version__)").strip(),
        "rounds": rounds,
        "epoch": {
            model: {kind: statistics.median(values) for kind, values in of.items()}
            for model, of in seconds.items()
        },
    }


def _whole(workspace: Workspace, model: str) -> dict[str, float]:
    """Seconds of all epochs that params.yaml asks for, the first included."""
    workspace.set_params(model)
    before = sum(workspace.measure("loop", model))
    began, *_, ended = workspace.moments(model)
    after = sum(workspace.measure("loop", model))
    return {"stage": ended - began, "loop": (before + after) / 2}


def _windows(workspace: Workspace, jax: str, rounds: int, console: Console) -> dict[str, Any]:
    """Milliseconds a step, the least and the median of all windows: quiet, and under load."""
    found: dict[str, Any] = {"device": device_name(torch.device("cpu")), "cpus": os.cpu_count()}
    seconds: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(rounds):
        for load in ("quiet", "loaded"):
            for model in REGISTRY:
                for kind in ("trained", "plain", "jax, scan", "jax, step"):
                    with _busy(load == "loaded"):
                        if kind.startswith("jax"):
                            taken = _jax(jax, model, kind, WINDOWS, IMAGES)
                        else:
                            workspace.set_params(model, epochs=WINDOWS)
                            taken = workspace.measure(kind, model, "--images", str(IMAGES))[1:]
                    seconds.setdefault((load, model, kind), []).extend(taken)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for (load, model, kind), values in seconds.items():
        each = 1000 / math.ceil(IMAGES / params[model]["batch_size"])
        shown = [round(each * value, 2) for value in (min(values), statistics.median(values))]
        found.setdefault(load, {}).setdefault(model, {})[kind] = shown
        console.print(f"{load:6} {model:4} {kind:9} {shown[0]:.2f}, {shown[1]:.2f} ms a step")
    return found


@contextmanager
def _busy(wanted: bool) -> Iterator[None]:
    """Keep each core busy meanwhile, if `wanted`."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range((os.cpu_count() or 1) * wanted)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _jax(
    python: str, model: str, kind: str, epochs: int = EPOCHS, count: int = 60_000
) -> list[float]:
    """Seconds of each epoch on the first `count` images but the first, which compiles."""
    config = yaml.safe_load((ROOT / "params.yaml").read_text())[model]
    config |= {"epochs": epochs, "images": count}
    images = str(ROOT / "data" / "mnist" / "train-images-idx3-ubyte")
    script = str(ROOT / "benchmarks" / "peer_jax.py")
    output = _output(python, script, model, images, json.dumps(config), kind.partition(", ")[2])
    return list(json.loads(output.splitlines()[-1]))[1:]


def _output(*command: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, env=kept, stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout


def table(results: dict[str, Any]) -> Table:
    """Seconds of an epoch, and ours over the fastest peer's."""
    epoch, models = results["epoch"], [*results["epoch"]]
    versions = f"torch {results['torch']}, jax {results['jax']}"
    where = f"{results['device']}, {results['cpus']} CPUs, {versions}"
    shown = Table("seconds an epoch", *(model.upper() for model in models), title=where)
    for kind in epoch[models[0]]:
        shown.add_row(kind, *(f"{epoch[model][kind]:.2f}" for model in models))
    for title, peers in (("JAX", PEERS[2:]), ("PyTorch", PEERS[:2])):
        fastest = [min(epoch[m][kind] for kind in peers if kind in epoch[m]) for m in models]
        ratios = [epoch[m]["stage"] / best for m, best in zip(models, fastest, strict=True)]
        shown.add_row(f"stage / {title}'s faster", *(f"{ratio:.2f}" for ratio in ratios))
    if whole := [*results.get("whole", {}).values()]:
        for kind in OURS:
            shown.add_row(f"{kind}, all epochs, s", *(f"{of[kind]:.0f}" for of in whole))
        shown.add_row("stage / loop, all", *(f"{of['stage'] / of['loop']:.2f}" for of in whole))
    return shown


if __name__ == "__main__":
    main()
