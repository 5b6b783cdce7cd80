"""`runrecord verify` of this experiment's own runs: trained again elsewhere, equal bit for bit."""

import re
import shutil
from pathlib import Path

import pytest
from mlflow_views import runs, verdict
from workspaces import IDENTICAL, Workspace, verify

pytestmark = pytest.mark.slow


@pytest.mark.needs("mkl")
def test_other_arithmetic_is_named_and_equal_or_different_by_the_tolerance(
    workspace: Workspace,
) -> None:
    """By MKL's kernels for any processor, which round otherwise than those it takes by itself."""
    workspace.run("runrecord", "sync")
    output = verify(workspace, "HEAD:ae", MKL_CBWR="COMPATIBLE")
    assert re.search(
        r"Verdict: equal within tolerance: \d+ results differ, first \S.* at step \d.*"
        r"; other here: env\.MKL_CBWR\.",
        output,
    )
    output = verify(workspace, "HEAD:ae", "--tolerance=0", status=1, MKL_CBWR="COMPATIBLE")
    assert "possible cause: env.MKL_CBWR." in output
    (run,) = runs(workspace, "train-ae")
    assert verdict(workspace, run) == "different"


def test_another_thread_count_and_its_variables_are_the_runs_own(workspace: Workspace) -> None:
    workspace.set_params(compute__threads=2)
    workspace.run("python", "stages/train_ae.py", ATEN_CPU_CAPABILITY="default")
    workspace.set_params(compute__threads=1)
    assert IDENTICAL in verify(workspace, runs(workspace)[0].info.run_id)


def test_a_clone_and_a_remote_are_enough(workspace: Workspace, tmp_path: Path) -> None:
    workspace.run("dvc", "remote", "add", "--quiet", "--default", "far", str(tmp_path / "far"))
    workspace.run("git", "commit", "--quiet", "--all", "--message=remote")
    workspace.run("dvc", "push", "--quiet")
    workspace.run("git", "clone", "--quiet", str(workspace.path), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    shutil.rmtree(workspace.path)
    for name in ("ae", "vae", "evaluation"):
        output = verify(clone, f"HEAD:{name}", MNIST_MIRROR="/nowhere")
        assert IDENTICAL in output
        assert "does not show this run here" in output
    assert not (clone.path / "mlflow.db").exists()
    assert not (clone.path / "data/mnist").exists()
