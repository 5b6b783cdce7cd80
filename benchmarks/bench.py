"""How fast training is, as ratios measured in one interleaved run: `make bench`.

    python benchmarks/bench.py              # all of it: about a quarter of an hour on two cores
    python benchmarks/bench.py --rounds 1   # a rough look

Every sample is a process of its own in a temporary clone with this checkout's code and data; the
kinds alternate. Needs data/mnist (`dvc repro download-mnist`). An epoch is train, test and preview.

    usual   torchvision's data set, four workers, PyTorch's layers and Adam, a scalar call a loss
    stage   stages/train_*.py as dvc runs it: record, checkpoints, MLflow, TensorBoard
    loop    our loop without any of these
    floor   an epoch's bare steps and test losses, on one batch that is there already
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from generative.core.compute import Compute, prepare
from generative.core.variables import SPINS
from generative.hardware import device_name
from generative.plots.charts import COLOURS, new_plot

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PICTURE = ROOT / "docs" / "pictures" / "performance.png"
MODELS = ("ae", "vae")
KINDS = ("usual", "stage", "loop", "floor")
TIMES = (1, 2, 4, 8)
BATCHES = (32, 64, 128, 256, 512, 1024, 2048)
LATENTS = {"ae": (4, 16, 64, 256), "vae": (2, 10, 50, 200, 800)}
SOME = 12_800  # images, for batch and latent sizes

Results = dict[str, Any]


class Workspace:
    """A clone with this checkout's code, data and parameters."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clone"
        subprocess.run(["git", "clone", "-q", "--shared", ROOT, self.path], check=True)
        for name in ("src", "stages"):
            shutil.copytree(ROOT / name, self.path / name, dirs_exist_ok=True)
        for name in ("dvc.yaml", "pyproject.toml"):
            shutil.copy(ROOT / name, self.path)
        (self.path / "data").mkdir(exist_ok=True)
        (self.path / "data" / "mnist").symlink_to(ROOT / "data" / "mnist")
        self.environment = os.environ | {"DVC_ROOT": str(self.path)}

    def set_params(self, model: str, **values: object) -> None:
        """This checkout's parameters, but for those of a model."""
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params[model] |= values
        (self.path / "params.yaml").write_text(yaml.safe_dump(params))

    def run(self, *command: str, **more: str) -> str:
        """What a command prints."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.path,
            env=self.environment | more,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return done.stdout

    def measure(self, kind: str, model: str, *options: str) -> Any:
        """What child.py measures, our own with threads that wait as a stage's do."""
        own = {} if kind in ("usual", "plain", "compiled") else {"GOMP_SPINCOUNT": SPINS}
        output = self.run(str(ROOT / "benchmarks" / "child.py"), kind, model, *options, **own)
        return json.loads(output.splitlines()[-1])

    def epochs(self, kind: str, model: str) -> list[float]:
        """Seconds of each epoch but the first, which warms up."""
        self.set_params(model, epochs=2 if kind == "usual" else 4)
        if kind != "stage":
            return list(self.measure(kind, model))[1:]
        _, *moments = self.moments(model)
        return [after - before for before, after in pairwise(moments)]

    def moments(self, model: str) -> list[float]:
        """Train a model by its stage: when it began, and when each epoch ended, in seconds."""
        checkpoints = self.path / ".runrecord" / "checkpoints"
        shutil.rmtree(checkpoints, ignore_errors=True)  # it begins at the first epoch
        self.run(f"stages/train_{model}.py")
        record = self.path / "records" / model
        began = json.loads((record / "run.json").read_text())["time"]
        events = map(json.loads, (record / "events.jsonl").read_text().splitlines())
        return [one / 1000 for one in (began, *(e["time"] for e in events if e.get("metrics")))]


def main() -> None:
    """Measure, write the results and their picture, and print the table."""
    parser = argparse.ArgumentParser(description="How fast training is, in ratios.")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        results: Results = {
            "device": device_name(prepare(_compute())),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "rounds": rounds,
            "epoch": _epochs(workspace, rounds, console),
            "step": {},
            "growth": {},
        }
        for model in MODELS:
            workspace.set_params(model, epochs=1)
            results["step"][model] = workspace.measure("one_step", model)
            results["growth"][model] = _growth(workspace, model, rounds, console)
        workspace.set_params("vae")
        results["start"] = _start(workspace, rounds)
    results["repro"] = _repro(rounds)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    draw(results)
    console.print(table(results))
    console.print(f"{RESULTS.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)} are written.")


def _compute() -> Compute:
    return Compute(**yaml.safe_load((ROOT / "params.yaml").read_text())["compute"])


def _epochs(workspace: Workspace, rounds: int, console: Console) -> Results:
    """Medians of the seconds of an epoch, by model and kind."""
    seconds: dict[str, dict[str, list[float]]] = {
        model: {kind: [] for kind in KINDS} for model in MODELS
    }
    workspace.epochs("stage", "vae")  # makes MLflow's database: once in its life, untimed
    for number in range(rounds):
        for model in MODELS:
            for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                taken = workspace.epochs(kind, model)
                seconds[model][kind] += taken
                shown = ", ".join(f"{one:.2f}" for one in taken)
                console.print(f"{model:4} {kind:6} {shown} s an epoch")
    return {
        model: {kind: statistics.median(values) for kind, values in kinds.items()}
        for model, kinds in seconds.items()
    }


def _growth(workspace: Workspace, model: str, rounds: int, console: Console) -> Results:
    """One epoch by number of images (medians), batch size and latent size."""
    grown: Results = {"times": {}, "batch_size": {}, "latent_dim": {}}
    samples = [
        [workspace.measure("growth", model, "--times", str(times)) for times in TIMES]
        for _ in range(rounds)
    ]
    for times, measured in zip(TIMES, zip(*samples, strict=True), strict=True):
        grown["times"][times] = {
            key: statistics.median(sample[key] for sample in measured) for key in measured[0]
        }
    for key, values in (("batch_size", BATCHES), ("latent_dim", LATENTS[model])):
        for value in values:
            workspace.set_params(model, epochs=1, **{key: value})
            grown[key][value] = workspace.measure("growth", model, "--images", str(SOME))
    console.print(f"{model:4} growth measured")
    return grown


def _start(workspace: Workspace, rounds: int) -> Results:
    """Seconds from starting Python to the first step, and to having imported torch; medians."""
    seconds: dict[str, list[float]] = {"torch": [], **{model: [] for model in MODELS}}
    code = "import torch, time; print(time.perf_counter())"
    for _ in range(2 * rounds):
        for kind, values in seconds.items():
            began = time.perf_counter()  # of the whole machine, so that a child's compares
            if kind == "torch":
                values.append(float(workspace.run("-c", code)) - began)
            else:
                values.append(workspace.measure("first_step", kind) - began)
    return {kind: statistics.median(values) for kind, values in seconds.items()}


def _repro(rounds: int) -> Results | None:
    """Seconds of `dvc repro` with nothing to do and of `dvc status`, where all is up to date."""
    dvc = str(Path(sys.executable).with_name("dvc"))

    def run(command: str) -> tuple[float, str]:
        began = time.perf_counter()
        done = subprocess.run(
            [dvc, command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
        return time.perf_counter() - began, done.stdout

    if "up to date" not in run("status")[1]:
        return None
    samples = [(run("repro")[0], run("status")[0]) for _ in range(2 * rounds)]
    return {
        name: statistics.median(values)
        for name, values in zip(("repro", "status"), zip(*samples, strict=True), strict=True)
    }


def table(results: Results) -> Table:
    """All ratios, for a person."""
    where = f"{results['device']}, {results['cpus']} CPUs, torch {results['torch']}"
    shown = Table("", *(model.upper() for model in MODELS), title=where)
    epoch, step, start = results["epoch"], results["step"], results["start"]
    for kind in KINDS:
        shown.add_row(f"{kind}, s an epoch", *(f"{epoch[model][kind]:.2f}" for model in MODELS))
    over_under = (("usual", "stage"), ("usual", "floor"), ("stage", "loop"), ("loop", "floor"))
    for over, under in over_under:
        ratios = [epoch[model][over] / epoch[model][under] for model in MODELS]
        shown.add_row(f"{over} / {under}", *(f"{ratio:.2f}" for ratio in ratios))
    for name, other in (("plain eager step", "plain"), ("its matrix products", "products")):
        ratios = [step[model]["ours"] / step[model][other] for model in MODELS]
        shown.add_row(f"step / {name}", *(f"{ratio:.2f}" for ratio in ratios))
    ends = [
        [results["growth"][model]["times"][times] for times in (TIMES[0], TIMES[-1])]
        for model in MODELS
    ]
    slower = [last["seconds"] / first["seconds"] for first, last in ends]
    shown.add_row("epoch of 8 times the images / of 1", *(f"{ratio:.2f}" for ratio in slower))
    peaks = [first["peak"] / 2**20 for first, _ in ends]
    shown.add_row("peak memory, MiB", *(f"{peak:.0f}" for peak in peaks))
    larger = [
        (last["peak"] - first["peak"]) / (last["bytes"] - first["bytes"]) for first, last in ends
    ]
    shown.add_row("its growth / of the images' bytes", *(f"{ratio:.2f}" for ratio in larger))
    ratios = [start[model] / start["torch"] for model in MODELS]
    shown.add_row("start to first step / import torch", *(f"{ratio:.2f}" for ratio in ratios))
    if repro := results["repro"]:
        shown.add_row("dvc repro / dvc status", f"{repro['repro'] / repro['status']:.2f}", "")
    return shown


def draw(results: Results) -> None:
    """The seconds of an epoch, and how they grow."""
    figure = new_plot(9, 6.4)
    (bars, images), (batches, latents) = figure.subplots(2, 2)
    colours = dict(zip(MODELS, COLOURS, strict=False))
    for offset, model in enumerate(MODELS):
        style = {"color": colours[model], "label": model.upper()}
        values = [results["epoch"][model][kind] for kind in KINDS]
        places = [place + 0.4 * offset for place in range(len(KINDS))]
        bars.bar_label(bars.bar(places, values, 0.38, **style), fmt="%.1f", fontsize=8)
        grown = results["growth"][model]
        seconds = [grown["times"][times]["seconds"] for times in TIMES]
        images.plot(TIMES, seconds, "o-", **style)
        for axes, key in ((batches, "batch_size"), (latents, "latent_dim")):
            rates = [SOME / measured["seconds"] for measured in grown[key].values()]
            axes.plot([*grown[key]], rates, "o-", **style)
    bars.margins(y=0.1)
    bars.set_xticks([place + 0.2 for place in range(len(KINDS))], KINDS)
    images.set_xlabel("Training images, times 60,000")
    batches.set_xlabel("Batch size, images")
    latents.set_xlabel("Latent dimensions")
    for axes in (bars, images):
        axes.set_ylabel("Seconds an epoch")
    for axes in (batches, latents):
        axes.set_ylabel("Images a second, test included")
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
    for axes in (bars, images, batches, latents):
        axes.legend()
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.savefig(PICTURE)


if __name__ == "__main__":
    main()
