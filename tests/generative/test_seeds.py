"""What the engine is told of this experiment is what was measured."""

import json
import re
import statistics

import pytest
import seeds
from workspaces import ROOT

from generative.project import PROJECT

MEASURED = json.loads((ROOT / "benchmarks/seeds.json").read_text())["metrics"]


def test_the_spread_and_the_tables_are_those_of_the_seeds_that_were_run() -> None:
    assert seeds.tables(MEASURED) in (ROOT / "docs/seeds.md").read_text(encoding="utf-8")
    assert PROJECT.spread == seeds.spread(MEASURED)
    assert PROJECT.spread_runs == min(len(MEASURED[name]) for name in ("ae", "vae", "gan"))
    values = [run["Reconstruction/MSE"] for run in MEASURED["ae"].values()]
    of_mse = PROJECT.spread["train-ae"]["Eval/Reconstruction/MSE"]
    assert of_mse == pytest.approx(statistics.stdev(values), rel=0.05)
    assert all(len(MEASURED[name]) == count for name, count in seeds.SEEDS.items())


def test_each_figure_with_a_deviation_in_the_readme_is_one_of_these() -> None:
    known = set()
    for runs in MEASURED.values():
        for values in seeds.values_of(runs).values():
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            known |= {f"{mean:.{digits}f} ± {deviation:.{digits}f}" for digits in range(6)}
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\u2212", "-")
    figures = re.findall(r"-?\d[\d.]* ± [\d.]*\d", text)
    assert len(figures) > 15
    assert [figure for figure in figures if figure not in known] == []


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
