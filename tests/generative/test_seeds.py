"""What the engine is told of this experiment is what was measured."""

import json
import re
import statistics

from workspaces import ROOT

from generative.project import PROJECT


def test_the_spread_is_that_of_the_three_seeds_in_the_docs() -> None:
    text = (ROOT / "docs/seeds.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^## (Autoencoder|Variational).*?\n(.*?)(?=^##|\Z)", text, re.M | re.S)
    )
    for stage, title in (("train-ae", "Autoencoder"), ("train-vae", "Variational")):
        rows = re.findall(
            r"^\| (\S.*?) \| (-?[\d.]+) \| (\S+) \| (\S+) \| (\S+) \|$",
            sections[title],
            re.MULTILINE,
        )
        measured = {}
        for name, *values, written in rows:
            deviation = float(f"{statistics.stdev(map(float, values)):.2g}")
            assert float(written) == deviation, name
            if name in PROJECT.headline:
                measured[f"Eval/{name}"] = deviation
        assert len(measured) >= 4
        assert PROJECT.spread[stage] == measured


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
