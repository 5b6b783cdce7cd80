"""Other images than MNIST's through all stages, as somebody who brings them would do it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from mlflow_views import assert_shown
from PIL import Image
from workspaces import IDENTICAL, RECORD_ONLY, STAGES, Workspace, spool, verify

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


def test_a_folder_of_images_in_colour_goes_through_all_stages(
    workspace: Workspace, tmp_path: Path
) -> None:
    metrics = metrics_of(colours, (32, 32, 3), workspace, tmp_path)
    assert any(name.startswith(("Latents/", "Samples/Class")) for name in metrics["vae"])
    assert "Reconstruction/SSIM" in metrics["ae"]
    assert (np.ptp(pixels_drawn(workspace), axis=2) > 8).any(), "colours stay colours"
    for folder in spool(workspace):
        assert_shown(workspace, folder)
    workspace.commit("other images").run("runrecord", "report")
    for name in ("gan", "evaluation"):
        assert IDENTICAL in verify(workspace, f"records/{name}")


def test_and_small_ones_without_labels(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in RECORD_ONLY.items():
        monkeypatch.setenv(name, value)
    metrics = metrics_of(unlabelled, (8, 13), workspace, tmp_path)
    assert not any(name.startswith(("Latents/", "Samples/Class")) for name in metrics["vae"])
    assert "Reconstruction/SSIM" not in metrics["ae"], "its window is larger"
    assert (np.ptp(pixels_drawn(workspace), axis=2) <= 8).all()


def metrics_of(
    make: Callable[[Path], None], shape: tuple[int, ...], workspace: Workspace, folder: Path
) -> dict[str, dict[str, float]]:
    """What is measured of models that were trained on those images, of that shape in IDX files."""
    make(folder / "images")
    workspace.set_params(
        data__name="mine",
        data__source=str(folder / "images"),
        data__sha256=None,
        evaluate__probe_images=200,
        evaluate__compared_samples=100,
    )
    workspace.set_params(**{f"{model}__batch_size": 50 for model in ("ae", "vae", "gan")})
    assert workspace.repro() == STAGES
    train = read_idx(images_file(workspace.path / "data/mine", "train"), 2 + len(shape) - 1)
    assert train.shape[1:] == shape
    metrics: dict[str, dict[str, float]] = json.loads(workspace.read("metrics/evaluation.json"))
    assert list(metrics) == ["ae", "vae", "gan"]
    assert "Samples/MMD2" in metrics["gan"]
    return metrics


def pixels_drawn(workspace: Workspace) -> "npt.NDArray[Any]":
    """The VAE's samples in their picture, below its title, (height, width, 3)."""
    with Image.open(workspace.path / "metrics/pictures/vae_samples.png") as picture:
        return np.asarray(picture.convert("RGB"))[30:].astype(int)
