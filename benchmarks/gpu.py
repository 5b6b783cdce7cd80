"""What a GPU does: called by gpu.sh, which says how. A part that fails stops no other."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from generative.core.compute import Compute, prepare
from generative.core.images import load_images
from generative.core.loop import Steps, initialise, make_optimizers
from generative.hardware import describe_device
from generative.models.registry import REGISTRY

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "tests" / "data"
FEW = 3  # epochs, where a whole training would say no more


class Clone:
    """A repository of its own with this checkout's code, on a device, for `epochs` epochs."""

    def __init__(self, path: Path, device: str, epochs: int, rehearsed: bool) -> None:
        self.path = path
        self.run("git", "clone", "--quiet", "--shared", str(ROOT), str(path), folder=ROOT)
        for name in ("src", "stages", "benchmarks"):
            shutil.copytree(ROOT / name, path / name, dirs_exist_ok=True)
        data = SAMPLE if rehearsed else ROOT / "data" / "mnist"
        shutil.copytree(data, path / "data" / "mnist", dirs_exist_ok=True)
        self.params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
        self.params["compute"]["device"] = device
        for model in REGISTRY:
            self.params[model]["epochs"] = min(epochs, self.params[model]["epochs"])
        if rehearsed:
            sums = subprocess.run(
                ["generative", "hash", str(SAMPLE)], capture_output=True, text=True, check=True
            )
            self.params["data"]["sha256"] = sums.stdout.strip()
            self.params["compute"]["threads"] = 1
            self.params["evaluate"]["importance_samples"] = 20
        self.set()

    def set(self, **compute: object) -> None:
        """Write params.yaml, with changes of its block `compute`, and commit all."""
        params = self.params | {"compute": self.params["compute"] | compute}
        (self.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        who = ("-c", "user.name=gpu", "-c", "user.email=gpu@example.org")
        self.run("git", "add", "--all")
        self.run("git", *who, "commit", "--quiet", "--allow-empty", "--message=gpu")

    def run(self, *command: str, folder: Path | None = None) -> str:
        """What a command prints, to the log too.

        Raises:
            CalledProcessError: it failed.
        """
        environment = os.environ | {"PYTHONPATH": str(self.path / "src"), "RUNRECORD_SINKS": "off"}
        done = subprocess.run(
            command,
            cwd=folder or self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(done.stdout, end="", flush=True)
        done.check_returncode()
        return done.stdout

    def trained(self, model: str) -> dict[str, Any]:
        """A training by its stage: the seconds of each epoch, and its losses at the end."""
        said = self.run("python", f"stages/train_{model}.py")
        seconds = [float(found) for found in re.findall(r"epoch .*  ([\d.]+) s$", said, re.M)]
        losses = json.loads((self.path / "metrics" / f"{model}.json").read_text())
        return {"epochs": seconds, "losses": losses, "no graph": "no CUDA graph" in said}


def graph_and_eager(model: str, device: torch.device, data: Path) -> dict[str, Any]:
    """The same epochs by a graph and by single steps: seconds of the last, and are bits equal?"""
    compute = Compute(device=str(device), threads=1, precision="float32", deterministic=True)
    prepare(compute)
    images = load_images(data, device)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())[model]
    config = REGISTRY[model].config_class(**params)
    found: dict[str, Any] = {}
    weights = []
    for kind in ("graph", "eager"):
        network = initialise(REGISTRY[model], config, 0, device)
        steps = Steps(network, make_optimizers(network), images.train, compute, device)
        if kind == "eager":
            steps.graphs = None
        for number in range(1, FEW + 1):
            begun = time.perf_counter()
            steps.epoch(0, number).cpu()
            found[f"{kind} seconds"] = time.perf_counter() - begun
        if kind == "graph":
            found["captured"] = bool(steps.graphs and steps.graphs.replay)
        weights.append([value.cpu() for value in network.state_dict().values()])
    found["equal bits"] = all(torch.equal(*pair) for pair in zip(*weights, strict=True))
    return found


def main() -> None:
    """Do each part, and write down what it gave, or why it failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with the tests' sample")
    rehearsed = parser.parse_args().rehearse
    if not rehearsed and not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no CUDA device; 'benchmarks/gpu.sh --rehearse' takes a CPU.")
    device = torch.device("cpu" if rehearsed else "cuda:0")
    results: dict[str, Any] = {
        "commit": subprocess.getoutput("git rev-parse HEAD"),
        "torch": torch.__version__,
        **describe_device(device),
    }
    with tempfile.TemporaryDirectory() as folder:
        clone = Clone(Path(folder) / "clone", str(device), 2 if rehearsed else 30, rehearsed)
        data = clone.path / "data" / "mnist"

        def tests() -> str:
            files = ("tests/generative/test_steps.py", "tests/generative/test_training.py")
            return clone.run("pytest", "-q", "-p", "no:cacheprovider", *files).splitlines()[-1]

        def usual(model: str) -> Any:
            return json.loads(
                clone.run("python", "benchmarks/child.py", "usual", model).splitlines()[-1]
            )

        def verified() -> dict[str, str]:
            runs = sorted(path.name for path in (clone.path / ".runrecord" / "runs").iterdir())
            return {run: clone.run("runrecord", "verify", run).splitlines()[-1] for run in runs}

        def coarse(precision: str) -> dict[str, Any]:
            epochs = {model: clone.params[model]["epochs"] for model in REGISTRY}
            for model in REGISTRY:
                clone.params[model]["epochs"] = min(FEW, epochs[model])
            clone.set(precision=precision)
            return {model: clone.trained(model) for model in REGISTRY}

        parts: dict[str, Callable[[], Any]] = {"tests": tests}
        for model in REGISTRY:
            parts[f"{model}: graph"] = partial(graph_and_eager, model, device, data)
            parts[f"{model}: stage"] = partial(clone.trained, model)
            if model != "gan":  # the chapter has no code for it
                parts[f"{model}: usual"] = partial(usual, model)
        parts["evaluate"] = lambda: clone.run("python", "stages/evaluate.py").splitlines()[-1]
        parts["verify"] = verified
        for precision in ("bf16",) if rehearsed else ("bf16", "tf32"):
            parts[precision] = partial(coarse, precision)
        for name, part in parts.items():
            print(f"== {name}", flush=True)
            begun = time.perf_counter()
            try:
                given = part()
            except Exception as error:
                given = {"failed": repr(error)}
            results[name] = {"seconds": round(time.perf_counter() - begun, 1), "gave": given}
            if not rehearsed:  # at once: what is cut short is not lost
                text = json.dumps(results, indent=1)
                (ROOT / "docs" / "gpu.json").write_text(f"{text}\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
