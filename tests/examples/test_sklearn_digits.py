"""The example with scikit-learn: its README's commands to the letter, then what could go wrong."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from mlflow_views import client, runs_in
from workspaces import IDENTICAL, ROOT, Workspace, code_blocks

EXAMPLE = ROOT / "examples" / "sklearn-digits"
POINTS = [0, 0, 40, 40]

pytestmark = [pytest.mark.workspace, pytest.mark.slow]


def points(project: Workspace) -> list[int]:
    """How many points MLflow shows of each run's metrics, less what the machine did."""
    store = client(project)
    return sorted(
        sum(
            len(store.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
            if not name.startswith("system/")
        )
        for run in runs_in(store, "sklearn-digits")
    )


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    """The example, in a folder of a new Git repository."""
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listed, cwd=EXAMPLE, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        target = tmp_path / "digits" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(EXAMPLE / name, target)
    project = Workspace(tmp_path / "digits")
    project.run("git", "init", "--quiet", "--initial-branch=main", str(tmp_path))
    return project.commit("example")


def test_the_readmes_commands_do_what_it_says(project: Workspace) -> None:
    blocks = code_blocks((EXAMPLE / "README.md").read_text(encoding="utf-8"))
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 12
    said = {}
    for command in commands:
        if command.startswith("rm "):
            assert points(project) == POINTS
        said[command] = project.run("sh", "-c", command)

    assert len(re.findall(r"│ (train|summary)-\S+ +│ FINISHED", said["runrecord runs"])) == 2
    train = said["runrecord show records/train"]
    for expected in ("model.alpha", "test/accuracy", "metrics.json", "scikit-learn"):
        assert expected in train
    assert ": made by train-" in said["runrecord which model.safetensors"]
    for stage in ("train", "summary"):  # a script and a program
        output = said[f"runrecord verify records/{stage}"]
        assert IDENTICAL in output
        assert "shows what the record says" in output
        assert "uncommitted change" not in output, "DVC had nothing to add to .gitignore"
    output = said["runrecord compare HEAD:train stronger:train"]
    assert re.search(r"│ model\.alpha +│ 0\.0001 +│ 0\.01 ", output)
    assert re.search(r"│ test/accuracy at step 1 ", output)
    assert "model.epochs" not in output
    assert b"confusion matrix" in project.read("report.html")
    assert "MLflow: 4 created, 0 completed, 0 already there, 0 failed" in said["runrecord sync"]
    assert points(project) == POINTS


def test_a_training_that_loads_its_state_goes_on_to_the_same_bytes() -> None:
    main = runpy.run_path(str(EXAMPLE / "train.py"))
    images, digits = main["load_digits"](return_X_y=True)

    def epochs(training: Any, count: int) -> None:
        for _ in range(count):
            training.model.partial_fit(images / 16, digits, classes=np.arange(10))

    whole = main["Training"](0.0001, seed=0)
    epochs(whole, 2)
    kept = safetensors.numpy.save(whole.state_dict())
    epochs(whole, 2)
    sequel = main["Training"](0.0001, seed=0)
    sequel.load_state_dict(safetensors.numpy.load(kept))
    epochs(sequel, 2)
    assert safetensors.numpy.save(sequel.state_dict()) == safetensors.numpy.save(whole.state_dict())
    assert safetensors.numpy.save(sequel.state_dict()) != kept
