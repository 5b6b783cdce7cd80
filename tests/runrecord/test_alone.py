"""The engine without the experiment: a fresh environment, none of the extras."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import ROOT, Workspace

SCRIPT = """
import sys
import numpy
import runrecord

class State:
    def state_dict(self):
        return {"w": numpy.ones(2)}
    def load_state_dict(self, arrays):
        assert arrays["w"].tolist() == [1.0, 1.0]

with runrecord.start_run("train") as run:
    for epoch in run.epochs(3, State()):
        run.log({"loss": 1 / epoch})
        if [str(epoch)] == sys.argv[1:]:
            raise RuntimeError
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # it installs from the package index


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the engine and what it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet"]
    source = tmp_path_factory.mktemp("source")  # building it leaves files among the sources
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*uv, "--python", folder / "bin/python", source], check=True)
    return folder / "bin"


def test_it_needs_neither_the_experiment_nor_an_extra(alone: Path, tmp_path: Path) -> None:
    missing = ("torch", "sklearn", "matplotlib", "mlflow", "tensorboardX")
    code = f"import runrecord, importlib.util as u; print(*map(u.find_spec, {missing}))"
    done = subprocess.run(
        [alone / "python", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["None"] * len(missing)
    other = Workspace(tmp_path)
    path = f"{alone}:/usr/bin:/bin"
    for preparing in (("git", "init", "--quiet"), ("dvc", "init", "--quiet")):
        other.run(*preparing, PATH=path)
    for command, name in (("sync", "MLflow"), ("tensorboard", "TensorBoard")):
        output = other.run("runrecord", command, PATH=path, status=2)
        assert output.startswith(f"error: {name} is not installed")
        assert f"pip install 'runrecord[{name.lower()}]'" in output
    (tmp_path / "train.py").write_text(SCRIPT)
    assert "going on" not in other.run("python", "train.py", "2", PATH=path, status=1)
    assert "after epoch 1" in other.run("python", "train.py", PATH=path)
    assert "FINISHED" in other.run("runrecord", "runs", PATH=path)
