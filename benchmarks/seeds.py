"""How far metrics lie apart where nothing but `seed` differs: docs/seeds.md is made by this.

    python benchmarks/seeds.py    # two hours on two CPU cores; needs data/mnist

Trains and evaluates the defaults of params.yaml by ten seeds, and the autoencoder with a clean
target by three, in temporary clones: one a core, each of one thread, which changes rounding alone
and does not wait for a busy neighbour. Goes on where benchmarks/seeds.json ends: to measure all
anew, delete it. Writes that file, the tables of docs/seeds.md, and src/generative/spread.json, by
which `runrecord report` judges.
"""

import csv
import json
import math
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
import yaml
from bench import ROOT, Workspace

from generative.core.compute import CPU
from generative.hardware import device_name
from generative.models.registry import REGISTRY
from generative.pipeline.stage import digest_of
from generative.project import PROJECT
from runrecord.files import write_atomic

RESULTS = ROOT / "benchmarks" / "seeds.json"
PAGE = ROOT / "docs" / "seeds.md"
SPREAD = ROOT / "src" / "generative" / "spread.json"
TITLES = {
    "ae": "Autoencoder, target noisy",
    "clean": "Autoencoder, target clean",
    "vae": "Variational autoencoder",
    "gan": "Adversarial network",
}
SEEDS = {"ae": 10, "clean": 3, "vae": 10, "gan": 10}
SHOWN = (
    "Epoch 12/Train/Total Loss",
    "Epoch 12/Test/Total Loss",
    "Train/Total Loss",
    "Test/Total Loss",
    "Train/Generator Loss",
    "Train/Discriminator Loss",
    *PROJECT.headline,
    "Unnormalised Likelihood/Active Units",
    "Samples/Classes Drawn",
    "Samples/Class Evenness",
)

Measured = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By model, or `clean`, and seed: metrics by name."""


def main() -> None:
    """Measure what is missing, and write the files."""
    results: dict[str, Any] = {"of": _what_is_run(), "metrics": {name: {} for name in SEEDS}}
    if RESULTS.exists():
        earlier = json.loads(RESULTS.read_text())
        if earlier["of"] != results["of"]:
            sys.exit(f"error: {RESULTS} is of other params, data or machine; delete it first.")
        results = earlier
    measured = results["metrics"]
    missing = [
        (names, seed)
        for names in (tuple(REGISTRY), ("clean",))
        for seed in range(SEEDS[names[0]])
        if str(seed) not in measured[names[0]]
    ]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        runs = {pool.submit(_run, seed, "clean" in names): (names, seed) for names, seed in missing}
        try:
            for run in as_completed(runs):
                names, seed = runs[run]
                found = run.result()
                for name in names:
                    measured[name][str(seed)] = found["ae" if name == "clean" else name]
                text = json.dumps(results, indent=1, sort_keys=True) + "\n"
                write_atomic(RESULTS, text.encode())
                print(f"seed {seed}, {', '.join(names)}: done", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)
    write(results)


def write(results: Mapping[str, Any]) -> None:
    """Write what follows from the metrics."""
    measured = results["metrics"]
    told = {
        "spread_runs": min(len(measured[name]) for name in REGISTRY),
        "spread": spread(measured),
        "spread_of": results["of"]["stages"],
    }
    write_atomic(SPREAD, (json.dumps(told, indent=2) + "\n").encode())
    text = PAGE.read_text(encoding="utf-8")
    before, _, after = re.split(r"(?s)(?<=<!-- tables -->\n)(.*)(?=<!-- end -->)", text)
    write_atomic(PAGE, (before + tables(measured) + after).encode())


def _what_is_run() -> dict[str, Any]:
    """Where, and by stage what all its runs have: params, and the digest of their images."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    digest = digest_of(ROOT / "data" / params["data"]["name"])
    used = {
        "data set": digest,
        "binarize": params["data"]["binarize"],
        "validation": params["split"]["validation"],
        "precision": params["compute"]["precision"],
    }
    return {
        "processor": device_name(CPU),
        "torch": torch.__version__,
        "evaluate": params["evaluate"],
        "stages": {f"train-{name}": {**used, **params[name]} for name in REGISTRY},
    }


def values_of(runs: Mapping[str, Mapping[str, float]]) -> dict[str, list[float]]:
    """Each metric's values over seeds."""
    first, *_ = runs.values()
    return {metric: [run[metric] for run in runs.values()] for metric in first}


def spread(measured: Measured) -> dict[str, dict[str, float]]:
    """By stage and main metric, the standard deviation over seeds."""
    return {
        f"train-{name}": {
            f"Eval/{metric}": _rounded(statistics.stdev(values))
            for metric, values in values_of(measured[name]).items()
            if metric in PROJECT.headline
        }
        for name in REGISTRY
    }


def tables(measured: Measured) -> str:
    """A table for each model: what its metrics are over seeds."""
    text = ""
    for name, title in TITLES.items():
        values = values_of(measured[name])
        text += f"\n## {title}: {len(measured[name])} seeds\n\n"
        text += "| metric | mean | standard deviation | least | most |\n|---|---|---|---|---|\n"
        for metric in SHOWN:
            if metric in values:
                text += f"| {metric} | {' | '.join(_shown(values[metric]))} |\n"
    return text + "\n"


def _shown(values: Sequence[float]) -> list[str]:
    """Mean, standard deviation, least and most, to the deviation's second digit."""
    deviation = statistics.stdev(values)
    digits = max(0, 1 - math.floor(math.log10(deviation))) if deviation else 0
    figures = statistics.mean(values), deviation, min(values), max(values)
    return [f"{figure:.{digits}f}" for figure in figures]


def _rounded(deviation: float) -> float:
    return float(f"{deviation:.2g}")


def _run(seed: int, clean: bool) -> dict[str, Any]:
    """Each model's metrics after training by that seed; or of the autoencoder with clean target."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["seed"], params["compute"]["threads"] = seed, 1
    models = [*REGISTRY]
    if clean:
        params["ae"]["target"], models = "clean", ["ae"]
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        workspace.environment |= {"RUNRECORD_SINKS": "off"}
        (workspace.path / "params.yaml").write_text(yaml.safe_dump(params))
        if clean:  # evaluated alone
            stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())
            del stages["stages"]["train-vae"], stages["stages"]["train-gan"]
            (workspace.path / "dvc.yaml").write_text(yaml.safe_dump(stages))
        for model in models:
            workspace.run(f"stages/train_{model}.py")
        workspace.run("stages/evaluate.py")
        metrics = workspace.path / "metrics"
        found: dict[str, Any] = json.loads((metrics / "evaluation.json").read_text())
        for model in models:
            found[model] |= json.loads((metrics / f"{model}.json").read_text())
        with (metrics / "ae_history.csv").open() as file:
            twelfth = [*csv.DictReader(file)][11]
        found["ae"] |= {f"Epoch 12/{name}": float(value) for name, value in twelfth.items()}
        return found


if __name__ == "__main__":
    main()
