"""What the engine is told of this experiment is what was measured."""

import re
import statistics

from helpers import ROOT

from generative.project import PROJECT


def test_the_spread_is_that_of_the_three_seeds_in_the_docs() -> None:
    text = (ROOT / "docs/seeds.md").read_text()
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
