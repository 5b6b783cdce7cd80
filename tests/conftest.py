"""Workspaces: real copies of this repository, with Git and DVC, that train on a sample of MNIST."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "tests" / "data"
SAMPLE_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
IDENTITY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Test"), ("EMAIL", "test@example.org"))
}


@dataclass(frozen=True)
class Workspace:
    """A copy of the repository that a test may do anything to."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("DVC_", "MLFLOW_", "GIT_"))
        }
        search = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        return kept | IDENTITY | {"PATH": search, "MNIST_MIRROR": str(SAMPLE)}

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a command here, its output in a pipe."""
        return subprocess.Popen(
            command,
            cwd=self.path,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self,
        *command: str,
        status: int = 0,
        environment: Mapping[str, str] | None = None,
        **more: str,
    ) -> str:
        """Run a command here, expect its exit status, and return what it printed."""
        with self.start(*command, **{**(environment or {}), **more}) as process:
            output, _ = process.communicate(timeout=280)
        assert process.returncode == status, output
        return output

    def repro(self, *arguments: str, status: int = 0) -> list[str]:
        """`dvc repro`: the stages whose command ran."""
        output = self.run("dvc", "repro", *arguments, status=status)
        return [
            line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")
        ]

    def set_params(self, **values: object) -> None:
        """Set keys of params.yaml: `ae__lr=0.01` sets `ae.lr`."""
        document = self.params()
        for dotted, value in values.items():
            *blocks, key = dotted.split("__")
            target: Any = document
            for block in blocks:
                target = target[block]
            target[key] = value
        text = yaml.safe_dump(document, sort_keys=False)
        (self.path / "params.yaml").write_text(text)

    def params(self) -> dict[str, dict[str, object]]:
        """What params.yaml holds."""
        text = (self.path / "params.yaml").read_text()
        document: dict[str, dict[str, object]] = yaml.safe_load(text)
        return document

    def read(self, name: str) -> bytes:
        """A file's content."""
        return (self.path / name).read_bytes()

    def copy(self, to: Path) -> "Workspace":
        """An equal workspace elsewhere, without the runs of this one."""
        ignored = shutil.ignore_patterns(
            "mlflow.db*", "mlruns", "tensorboard", ".generative", "__pycache__"
        )
        shutil.copytree(self.path, to, symlinks=True, ignore=ignored)
        return Workspace(to)


def _new_workspace(path: Path) -> Workspace:
    """This checkout's files in a repository of their own, set to train briefly on the sample."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if name.startswith(("tests/", "docs/", "metrics/")) or name == "dvc.lock":
            continue
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    workspace = Workspace(path)
    for key, name in SAMPLE_FILES.items():
        digest = hashlib.sha256((SAMPLE / name).read_bytes()).hexdigest()
        workspace.set_params(**{f"data__{key}": digest})
    workspace.set_params(
        compute__device="cpu",
        ae__epochs=2,
        ae__batch_size=100,
        vae__epochs=2,
        vae__hidden_dim=32,
        vae__latent_dim=8,
        evaluate__importance_samples=20,
    )
    workspace.run("git", "init", "--quiet", "--initial-branch=main")
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", "--message=sample")
    return workspace


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after `dvc repro`, with its runs. Read it; copy it to change it."""
    workspace = _new_workspace(tmp_path_factory.mktemp("built") / "repository")
    assert workspace.repro() == ["download-mnist", "train-ae", "train-vae", "evaluate"]
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", "--message=results")
    return workspace


@pytest.fixture
def workspace(built: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the built workspace, without its runs, to change at will."""
    return built.copy(tmp_path / "repository")
