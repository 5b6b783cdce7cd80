"""How far metrics lie apart where nothing but `seed` differs: docs/seeds.md is made by this.

    python benchmarks/seeds.py    # two hours on two CPU cores; needs data/mnist

Trains and evaluates the defaults of params.yaml by ten seeds, and the autoencoder with a clean
target by three, in a temporary clone. Goes on where benchmarks/seeds.json ends: to measure all
anew, delete it. Writes that file, the tables of docs/seeds.md, and src/generative/spread.json, by
which `runrecord report` judges.
"""

import json
import os
import re
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from bench import ROOT, Workspace

from generative.hardware import device_name
from generative.project import PROJECT

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
    "Unnormalised Likelihood/IWAE Gain",
    "Unnormalised Likelihood/Active Units",
    "Samples/Classes Drawn",
    "Samples/Class Evenness",
)

Measured = Mapping[str, list[dict[str, float]]]
"""By model, or `clean`: the metrics of each seed from 0 on."""


def main() -> None:
    """Measure what is missing, and write the files."""
    results: dict[str, Any] = {"metrics": {name: [] for name in SEEDS}}
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text())
    measured = results["metrics"]
    results |= {
        "processor": device_name(torch.device("cpu")),
        "torch": torch.__version__,
        "cpus": os.cpu_count(),
    }
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        workspace.environment |= {"RUNRECORD_SINKS": "off"}
        for seed in range(max(SEEDS.values())):
            for names, params in ((["ae", "vae", "gan"], {}), (["clean"], {"target": "clean"})):
                if any(len(measured[name]) == seed < SEEDS[name] for name in names):
                    found = _run(workspace, seed, params)
                    for name in names:
                        measured[name].append(found["ae" if name == "clean" else name])
                    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
                    print(f"seed {seed}, {', '.join(names)}: done", flush=True)
    write(measured)


def write(measured: Measured) -> None:
    """Write what follows from the metrics."""
    runs = min(len(measured[name]) for name in ("ae", "vae", "gan"))
    told = {"spread_runs": runs, "spread": spread(measured)}
    SPREAD.write_text(json.dumps(told, indent=2) + "\n")
    text = PAGE.read_text(encoding="utf-8")
    before, _, after = re.split(r"(?s)(?<=<!-- tables -->\n)(.*)(?=<!-- end -->)", text)
    PAGE.write_text(before + tables(measured) + after, encoding="utf-8")


def spread(measured: Measured) -> dict[str, dict[str, float]]:
    """By stage and main metric, the standard deviation over seeds."""
    return {
        f"train-{name}": {
            f"Eval/{metric}": _rounded(statistics.stdev(run[metric] for run in measured[name]))
            for metric in PROJECT.headline
            if metric in measured[name][0]
        }
        for name in ("ae", "vae", "gan")
    }


def tables(measured: Measured) -> str:
    """A table for each model: what its metrics are over seeds."""
    text = ""
    for name, runs in measured.items():
        text += f"\n## {TITLES[name]}: {len(runs)} seeds\n\n"
        text += "| metric | mean | standard deviation | least | most |\n|---|---|---|---|---|\n"
        for metric in SHOWN:
            if metric in runs[0]:
                values = [run[metric] for run in runs]
                deviation = statistics.stdev(values)
                figures = _shown(statistics.mean(values), deviation, *_ends(values))
                text += f"| {metric} | {' | '.join(figures)} |\n"
    return text + "\n"


def _ends(values: Iterable[float]) -> tuple[float, float]:
    values = sorted(values)
    return values[0], values[-1]


def _shown(mean: float, deviation: float, least: float, most: float) -> list[str]:
    """Figures to the digits that the deviation has two of."""
    shown = f"{_rounded(deviation):f}".rstrip("0").rstrip(".")
    digits = len(shown.partition(".")[2])
    return [f"{mean:.{digits}f}", shown, f"{least:.{digits}f}", f"{most:.{digits}f}"]


def _rounded(deviation: float) -> float:
    return float(f"{deviation:.2g}")


def _run(workspace: Workspace, seed: int, params: Mapping[str, object]) -> dict[str, Any]:
    """Each model's metrics after training with that seed, the autoencoder alone with `params`."""
    text = yaml.safe_load((ROOT / "params.yaml").read_text())
    text["seed"] = seed
    text["ae"] |= params
    (workspace.path / "params.yaml").write_text(yaml.safe_dump(text))
    for model in ["ae"] if params else ["ae", "vae", "gan"]:
        workspace.run(f"stages/train_{model}.py")
    workspace.run("stages/evaluate.py")
    metrics = workspace.path / "metrics"
    found: dict[str, Any] = json.loads((metrics / "evaluation.json").read_text())
    for model, values in found.items():
        values |= json.loads((metrics / f"{model}.json").read_text())
    header, *rows = (metrics / "ae_history.csv").read_text().splitlines()
    twelfth = dict(zip(header.split(","), map(float, rows[11].split(",")), strict=True))
    found["ae"] |= {f"Epoch 12/{name}": value for name, value in twelfth.items()}
    return found


if __name__ == "__main__":
    main()
