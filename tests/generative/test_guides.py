"""The guides in docs/, walked: their own commands, with this machine's places for theirs."""

import gzip
import re
from pathlib import Path

import pytest
from helpers import (
    EXPERIMENT,
    ROOT,
    SAMPLE,
    SAMPLE_FILES,
    STAGES,
    Workspace,
    code_blocks,
    documented_server,
    terminal,
)
from mlflow import MlflowClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def blocks(name: str) -> list[str]:
    """The guide's code blocks, those within its numbered steps."""
    text = (ROOT / "docs" / name).read_text()
    return code_blocks(re.sub(r"^   ", "", text, flags=re.MULTILINE))


def other_images(folder: Path) -> None:
    """A data set by MNIST's names: the sample's images, black for white; two files gzipped."""
    folder.mkdir()
    for number, name in enumerate(SAMPLE_FILES.values()):
        content = (SAMPLE / name).read_bytes()
        if "images" in name:
            content = content[:16] + bytes(255 - byte for byte in content[16:])
        if number % 2:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def test_other_images_are_trained_on_as_the_guide_says(
    workspace: Workspace, tmp_path: Path
) -> None:
    where, digests, run = blocks("change-the-data.md")
    other_images(tmp_path / "fashion")
    where = where.replace("/data/fashion", str(tmp_path / "fashion"))
    assert str(tmp_path) in where
    said = workspace.run("sh", "-ec", where + digests)
    found = [line.split()[0] for line in said.splitlines()]
    old = workspace.params()["data"]
    assert {*found} & {*old.values()} == {old["train_labels"], old["test_labels"]}
    workspace.set_params(
        **{f"data__{key}": digest for key, digest in zip(SAMPLE_FILES, found, strict=True)}
    )
    said = workspace.run("sh", "-ec", where + run)
    for stage in STAGES:
        assert f"Running stage '{stage}'" in said
    shown = workspace.run("sh", "-ec", run.splitlines()[1])
    assert "256" in shown
    (source,) = [line for line in shown.splitlines() if line.startswith("│ source ")]
    assert "MNIST_MIRROR" in source

    workspace.set_params(data__train_images="0" * 64)
    said = workspace.run("sh", "-ec", where + run.splitlines()[0], status=255)
    assert "SHA-256" in said
    assert "Traceback" not in said


def test_runs_are_shown_by_ones_own_tracker_as_the_guide_says(
    workspace: Workspace, tmp_path: Path
) -> None:
    server, name, bring, look = blocks("use-your-own-tracker.md")
    with documented_server(
        " ".join(server.replace("\\\n", " ").split()), tmp_path / "s"
    ) as address:
        name = name.replace("http://tracker:5000", address)
        assert address in name
        assert "✓" in workspace.run("sh", "-ec", name)
        said = workspace.run("sh", "-ec", name.splitlines()[0] + "\n" + bring)
        assert "MLflow: 5 created" in said
        workspace.set_params(vae__epochs=3)
        workspace.run("sh", "-ec", name.splitlines()[0] + "\n" + bring)
        client = MlflowClient(address)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        stages = sorted(
            run.data.tags["mlflow.source.name"]
            for run in client.search_runs([experiment.experiment_id])
        )
        assert stages == sorted([*STAGES, "evaluate", "train-vae"])
        assert not (workspace.path / "mlflow.db").exists()
        with terminal(workspace, f"env MLFLOW_TRACKING_URI={address} {look.strip()}") as process:
            said, _ = process.communicate(timeout=120)
        assert said.count(f"{address}/#/experiments/{experiment.experiment_id}/") == 3
