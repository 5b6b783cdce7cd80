"""What the engine is told of this experiment is what was measured."""

import json
import re
import statistics
from typing import Any

import pytest
import seeds
from workspaces import ROOT, Workspace

from generative.project import PROJECT
from runrecord.record.reader import Record, files_in


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """What benchmarks/seeds.py measured."""
    found: dict[str, Any] = json.loads((ROOT / "benchmarks/seeds.json").read_text())
    return found


def test_the_spread_and_the_tables_are_those_of_the_seeds_that_were_run(
    results: dict[str, Any],
) -> None:
    measured = results["metrics"]
    assert {name: len(runs) for name, runs in measured.items()} == seeds.SEEDS
    assert seeds.tables(measured) in (ROOT / "docs/seeds.md").read_text(encoding="utf-8")
    assert PROJECT.spread == seeds.spread(measured)
    assert PROJECT.spread_runs == 10
    values = [run["Reconstruction/MSE"] for run in measured["ae"].values()]
    of_mse = PROJECT.spread["train-ae"]["Eval/Reconstruction/MSE"]
    assert of_mse == pytest.approx(statistics.stdev(values), rel=0.05)


def test_the_spread_is_of_the_default_params(results: dict[str, Any], built: Workspace) -> None:
    """Those that a run's record has, but for the sample's images and small sizes."""
    assert PROJECT.spread_of == results["of"]["stages"]
    for name, wanted in PROJECT.spread_of.items():
        start = Record(files_in(built.path / "records" / name.removeprefix("train-"))).start
        had = {**start.params, "data set": start.dataset and start.dataset.digest}
        assert wanted.keys() <= had.keys()
        of_the_sample = {"data set", "epochs", "batch_size", "hidden_dim", "latent_dim"}
        assert {key for key in wanted if had[key] != wanted[key]} <= of_the_sample
        assert len(str(wanted["data set"])) == len(str(had["data set"]))


ROWS = {
    "autoencoder, target noisy": "ae Train/Total Loss, ae Test/Total Loss",
    "the same, epoch 12": "ae Epoch 12/Train/Total Loss, ae Epoch 12/Test/Total Loss",
    "autoencoder, target clean": "clean Train/Total Loss, clean Test/Total Loss",
    "variational autoencoder": "vae Train/Total Loss, vae Test/Total Loss",
    "SSIM": "ae Reconstruction/SSIM, vae Reconstruction/SSIM",
    "squared error per pixel": "ae Denoising/MSE at 0.3, vae Denoising/MSE at 0.3",
    "accuracy of a linear probe": "ae Latents/Probe Accuracy, vae Latents/Probe Accuracy",
    "ELBO": "vae Unnormalised Likelihood/ELBO",
    "importance-weighted bound": "vae Unnormalised Likelihood/IWAE Bound",
    "active units": "vae Unnormalised Likelihood/Active Units",
    "squared MMD": "vae Samples/MMD2, gan Samples/MMD2",
    "Fréchet distance": "vae Samples/Classifier Frechet Distance, "
    "gan Samples/Classifier Frechet Distance",
    "classes generated": "vae Samples/Classes Drawn, vae Samples/Class Evenness, "
    "gan Samples/Classes Drawn, gan Samples/Class Evenness",
}
"""How each row of README's tables of results begins, and what its figures are of."""


def test_each_figure_of_the_readmes_tables_is_of_these_seeds(results: dict[str, Any]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\u2212", "-")
    for begins, metrics in ROWS.items():
        (row,) = re.findall(rf"^\| {begins}.*$", text, re.MULTILINE)
        figures = re.findall(r"(-?\d[\d.]*) ± ([\d.]*\d)", row)
        for (mean, deviation), measured in zip(figures, metrics.split(", "), strict=True):
            model, _, metric = measured.partition(" ")
            values = [run[metric] for run in results["metrics"][model].values()]
            digits = len(mean.partition(".")[2])
            assert mean == f"{statistics.mean(values):.{digits}f}", metric
            assert deviation == f"{statistics.stdev(values):.{digits}f}", metric


def test_which_way_a_metric_is_better_is_what_the_docs_say() -> None:
    text = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `([^`]+)` \|.*\| (lower|higher) \|$", text, re.MULTILINE))
    evaluated = json.loads((ROOT / "metrics/evaluation.json").read_bytes())
    names = {name for metrics in evaluated.values() for name in metrics}
    said = {}
    for name in names:
        row = re.sub("^.*Likelihood/", "…Likelihood/", name)
        row = re.sub("^Denoising/(.*) at .*", r"Reconstruction/\1", row)
        said[row] = documented.get(row)
        assert PROJECT.way_of(name) == PROJECT.way_of(f"Eval/{name}") == said[row], name
    assert documented.items() <= said.items(), "each row was met"
    assert len(documented) == 12
