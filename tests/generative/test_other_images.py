"""Other images than MNIST's through all stages, as somebody who brings them would do it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from mlflow_views import client, event_files, runs
from PIL import Image
from workspaces import IDENTICAL, STAGES, Workspace, verify

from generative.core.idx import images_file, read_idx

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def colours(folder: Path) -> None:
    """Discs of three colours on grounds of chance, 32 x 32; a folder a colour, split already."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    for split, count in (("train", 60), ("test", 30)):
        for channel, name in enumerate(("red", "green", "blue")):
            for number in range(count):
                image = np.repeat(random.integers(0, 80, (1, 1, 3)), 32, 0).repeat(32, 1)
                row, column, radius = random.integers((8, 8, 4), (24, 24, 9))
                image[(y - row) ** 2 + (x - column) ** 2 < radius**2, channel] = 230
                save(folder / split / name / f"{number}.png", image)


def unlabelled(folder: Path) -> None:
    """Grey slopes, 13 wide and 8 high, the least there may be, all in one folder."""
    random = np.random.default_rng(0)
    for number in range(300):
        across, down = random.uniform(0, 1, 2)
        slope = across * np.linspace(0, 1, 13) + down * np.linspace(0, 1, 8)[:, None]
        save(folder / f"{number}.png", slope * 127)


def save(path: Path, pixels: "npt.NDArray[Any]") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    ("make", "shape", "classes"),
    [(colours, (32, 32, 3), 3), (unlabelled, (8, 13), 0)],
    ids=["3 x 32 x 32", "8 x 13 without labels"],
)
def test_a_folder_of_images_goes_through_all_stages(
    make: Callable[[Path], None],
    shape: tuple[int, ...],
    classes: int,
    workspace: Workspace,
    tmp_path: Path,
) -> None:
    make(tmp_path / "images")
    workspace.set_params(data__name="mine", data__source=str(tmp_path / "images"))
    workspace.set_params(data__sha256=None)
    workspace.set_params(evaluate__probe_images=200, evaluate__compared_samples=100)
    workspace.set_params(**{f"{model}__batch_size": 50 for model in ("ae", "vae", "gan")})
    assert workspace.repro() == STAGES
    train = read_idx(images_file(workspace.path / "data/mine", "train"), 2 + len(shape) - 1)
    assert train.shape[1:] == shape
    metrics = json.loads(workspace.read("metrics/evaluation.json"))
    assert list(metrics) == ["ae", "vae", "gan"]
    labelled = {name for name in metrics["vae"] if name.startswith(("Latents/", "Samples/Class"))}
    assert bool(labelled) == bool(classes)
    assert ("Reconstruction/SSIM" in metrics["ae"]) == (min(shape[:2]) >= 11)
    assert "Samples/MMD2" in metrics["gan"]
    with Image.open(workspace.path / "metrics/pictures/vae_samples.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))[30:].astype(int)
    assert (np.ptp(pixels, axis=2) > 8).any() == (len(shape) == 3), "colours stay colours"

    ended = [run.data.tags["mlflow.source.name"] for run in runs(workspace)]
    assert sorted(ended) == sorted(STAGES)
    (trained,) = runs(workspace, "train-gan")
    files = client(workspace).list_artifacts(trained.info.run_id, "images")
    assert files
    (evaluation,) = runs(workspace, "evaluate")
    assert set(event_files(workspace, evaluation).Tags()["images"]) == {
        path.stem for path in (workspace.path / "metrics/pictures").iterdir()
    }
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", "--message=other images")
    workspace.run("runrecord", "report")
    for name in ("gan", "evaluation"):
        assert IDENTICAL in verify(workspace, f"records/{name}")
