"""What a run takes beside its training, of memory and disk, where models, data or runs are big.

Each sample is a process of its own; the same training without a run is the measure. It needs twelve
times the model's size on the disk of TMPDIR.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

MIB = 2**20
STAGE = """stages:
  train: {cmd: python big.py, deps: [data.bin], outs: [model.bin, records/train]}
"""


def main() -> None:
    """Measure, and print a line of a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=int, default=256, help="MiB of the model")
    parser.add_argument("--data", type=int, default=128, help="MiB of the data set")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="in each epoch")
    parser.add_argument("--work", choices=["plain", "recorded"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work == "recorded", given.model, given.epochs, given.steps)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        (folder / ".dvc").mkdir()
        (folder / "dvc.yaml").write_text(STAGE)
        with (folder / "data.bin").open("wb") as file:
            for _ in range(given.data):
                file.write(os.urandom(MIB))
        plain, recorded = (sample(kind, folder) for kind in ("plain", "recorded"))
        beside = recorded["MiB"] - plain["MiB"]
        print(
            f"| {given.model} | {given.data} | {given.epochs} x {given.steps} | {plain['MiB']:.0f} "
            f"| {recorded['MiB']:.0f} | {beside / given.model:.2f} | {recorded['seconds']:.0f} "
            f"for {plain['seconds']:.0f} | {size(folder / '.runrecord', folder / 'records'):.0f} "
            f"| {size(folder / 'mlruns'):.0f} | {size(folder / 'tensorboard'):.0f} |"
        )


def work(recorded: bool, model: int, epochs: int, steps: int) -> None:
    """Train nothing, with a model of that size, and PyTorch there, as in most trainings."""
    import torch  # noqa: F401

    state = State(np.full(model * MIB // 4, 1.0, np.float32))
    losses = np.random.default_rng(0).random(steps).tolist()
    if not recorded:
        state.arrays["weights"].tofile("model.bin")
        return
    import runrecord

    with runrecord.start_run("train") as run:
        for epoch in run.epochs(epochs, state):
            run.log({"loss": losses[-1]}, within={"loss": losses})
            if epoch == epochs:
                state.arrays["weights"].tofile("model.bin")
                run.model("model.bin")


class State:
    """A training's, which has its weights alone."""

    def __init__(self, weights: "np.ndarray") -> None:
        self.arrays = {"weights": weights}

    def state_dict(self) -> "dict[str, np.ndarray]":
        """They are."""
        return self.arrays

    def load_state_dict(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Be these."""
        self.arrays = dict(arrays)


def sample(kind: str, folder: Path) -> dict[str, float]:
    """The peak memory and the seconds of a process that does that."""
    code = (
        "import json, resource, subprocess, sys, time; begun = time.monotonic(); "
        "subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr); "
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024; "
        "print(json.dumps({'MiB': peak, 'seconds': time.monotonic() - begun}))"
    )
    script = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--work", kind]
    done = subprocess.run(
        [sys.executable, "-c", code, *script], cwd=folder, check=True, stdout=subprocess.PIPE
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def size(*folders: Path) -> float:
    """MiB on the disk, a file of two names once."""
    files = [path.stat() for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sum({one.st_ino: one.st_blocks * 512 for one in files}.values()) / MIB


if __name__ == "__main__":
    main()
