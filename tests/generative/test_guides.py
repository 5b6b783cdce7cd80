"""The guides in docs/, walked: their own commands, with this machine's places for theirs."""

import re
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow_views import runs_in
from PIL import Image
from servers import documented_server
from workspaces import (
    EXPERIMENT,
    ROOT,
    SAMPLE,
    SAMPLE_FILES,
    STAGES,
    Workspace,
    code_blocks,
    terminal,
)

from generative.core.idx import read_idx

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def blocks(name: str, language: str = "sh") -> list[str]:
    """The guide's code blocks, those within its numbered steps."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return code_blocks(re.sub(r"^   ", "", text, flags=re.MULTILINE), language)


def own_images(folder: Path) -> None:
    """The sample's images, black for white, as PNG files in a folder a class."""
    for split in ("train", "t10k"):
        images = read_idx(SAMPLE / f"{split}-images-idx3-ubyte", 3)
        labels = read_idx(SAMPLE / f"{split}-labels-idx1-ubyte", 1)
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / f"digit {label}" / f"{split} {number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 - pixels).save(path)


def test_other_images_are_trained_on_as_the_guide_says(
    workspace: Workspace, tmp_path: Path
) -> None:
    by_name, run = blocks("change-the-data.md")
    # The download alone, to be quick; the sample passes for Fashion-MNIST by data.sha256.
    by_name = by_name.replace("\n", " download-mnist\n")
    workspace.run("sh", "-ec", by_name, FASHION_MNIST_MIRROR=str(SAMPLE))
    for name in SAMPLE_FILES.values():
        assert workspace.read(f"data/fashion-mnist/{name}") == (SAMPLE / name).read_bytes()

    own_images(tmp_path / "cats")
    (block,) = blocks("change-the-data.md", "yaml")
    data = yaml.safe_load(block.replace("/data/cats", str(tmp_path / "cats")))["data"]
    assert data["source"] == str(tmp_path / "cats")
    workspace.set_params(**{f"data__{key}": value for key, value in data.items()})
    said = workspace.run("sh", "-ec", run)
    assert all(f"Running stage '{stage}'" in said for stage in STAGES)
    assert "330" in said  # of 384, six in seven
    assert "0 digit 0, 1 digit 1, " in said

    picture = tmp_path / "cats" / "digit 7" / "another.png"
    Image.new("L", (28, 28)).save(picture)
    before = workspace.run("generative", "hash", str(tmp_path / "cats"))
    assert workspace.repro() == [], "DVC does not watch the folder"
    said = workspace.run("sh", "-ec", "dvc repro --force download-mnist")
    assert f"SHA-256 {before.strip()}" in said


def test_runs_are_shown_by_ones_own_tracker_as_the_guide_says(
    toy: Workspace, tmp_path: Path
) -> None:
    """It is the engine's guide: any project's runs do."""
    server, name, bring, look = blocks("runrecord/trackers.md")
    server = " ".join(server.replace("\\\n", " ").split())
    with documented_server(server, tmp_path / "s") as address:
        name = name.replace("http://tracker:5000", address)
        assert address in name
        assert "✓" in toy.run("sh", "-ec", name)
        said = toy.run("sh", "-ec", name.splitlines()[0] + "\n" + bring)
        assert "MLflow: 2 created" in said
        toy.set_params(train__epochs=3)
        toy.run("sh", "-ec", name.splitlines()[0] + "\n" + bring)
        client = MlflowClient(address)
        stages = sorted(run.data.tags["mlflow.source.name"] for run in runs_in(client))
        assert stages == ["evaluate", "evaluate", "train", "train"]
        assert not (toy.path / "mlflow.db").exists()
        with terminal(toy, f"env MLFLOW_TRACKING_URI={address} {look.strip()}") as process:
            said, _ = process.communicate(timeout=120)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        assert said.count(f"{address}/#/experiments/{experiment.experiment_id}/runs") == 1
