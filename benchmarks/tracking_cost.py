"""What tracking costs: a training stage with its record and all sinks, against the bare loop.

    python benchmarks/tracking_cost.py vae --epochs 30 --pairs 2

Each training is a process of its own; the two kinds alternate, in one run on one machine. Timed is
all of a stage but Python's start: reading data, training, writing the model and, with tracking, the
record and waiting for every sink to have shown everything.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the pairs, or, as a child of such a run, one training."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=("ae", "vae"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--child", choices=("tracked", "bare"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        train_once(arguments.model, tracked=arguments.child == "tracked")
    else:
        compare(arguments.model, arguments.epochs, arguments.pairs)


def compare(model: str, epochs: int, pairs: int) -> None:
    """Time both kinds in turn, and print medians and their ratio."""
    seconds: dict[str, list[float]] = {"tracked": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder:
        set_up(Path(folder), model, epochs=1)
        run_child(Path(folder), model, "tracked")  # makes the store: once in its life, untimed
        set_up(Path(folder), model, epochs)
        for number in range(pairs):
            for kind in ("tracked", "bare") if number % 2 == 0 else ("bare", "tracked"):
                taken = run_child(Path(folder), model, kind)
                seconds[kind].append(taken)
                print(f"{kind:8}{taken:8.1f} s", flush=True)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    ratio = medians["tracked"] / medians["bare"]
    print(f"{model}, {epochs} epochs, {pairs} pairs: tracked / bare = {ratio:.3f}")


def set_up(folder: Path, model: str, epochs: int) -> None:
    """A workspace with this repository's parameters and data."""
    (folder / ".dvc").mkdir(exist_ok=True)
    shutil.copy(ROOT / "dvc.yaml", folder)
    if not (folder / "data").exists():
        (folder / "data").symlink_to(ROOT / "data")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params[model]["epochs"] = epochs
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def run_child(folder: Path, model: str, kind: str) -> float:
    """Train once in a process of its own; the seconds it took."""
    command = [sys.executable, __file__, model, "--child", kind]
    environment = os.environ | {"DVC_ROOT": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    return float(done.stdout.splitlines()[-1])


def train_once(name: str, *, tracked: bool) -> None:
    """Train, and print the seconds it took."""
    from generative.models.file import save_model
    from generative.models.registry import REGISTRY
    from generative.outputs import model_path
    from generative.params import Params
    from generative.setting import prepare_setting
    from generative.training import fit, initialise, make_optimizer
    from generative.training_run import train

    started = time.perf_counter()
    if tracked:
        train(REGISTRY[name])
    else:
        params = Params()
        setting = prepare_setting(f"train-{name}", params)
        config = params.section(name, REGISTRY[name].config_class)
        model = initialise(REGISTRY[name], config, setting.seed, setting.device)
        optimizer = make_optimizer(model)
        data, seed = setting.data, setting.seed
        for _ in fit(model, optimizer, data, seed, setting.compute, setting.device):
            pass
        save_model(model, model_path(name))
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
