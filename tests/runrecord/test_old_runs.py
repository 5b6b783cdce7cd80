"""What version 0.1 left behind goes on being read; nothing new is written there."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, Workspace, runs, set_to_sample, spool


def test_an_old_run_store_is_read_and_left_as_it_is(built: Workspace, workspace: Workspace) -> None:
    """Its folder had another name; its records are of format 1, as today's."""
    old = workspace.path / ".generative" / "spool"
    shutil.copytree(built.path / ".runrecord" / "runs", old)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    (vae,) = [folder.name for folder in old.iterdir() if folder.name.startswith("train-vae")]
    assert vae in workspace.run("runrecord", "runs")
    assert "FINISHED" in workspace.run("runrecord", "show", vae)
    shutil.rmtree(workspace.path / "records")
    assert "3 created" in workspace.run("runrecord", "sync")
    assert {run.info.run_name for run in runs(workspace)} == {path.name for path in old.iterdir()}
    workspace.run("python", "stages/train_vae.py")
    assert "Verdict: bit-identical" in workspace.run("runrecord", "compare", vae, "records/vae")
    new = {folder for folder in spool(workspace) if folder.parent != old}
    assert {folder.parent for folder in new} == {workspace.path / ".runrecord" / "runs"}
    after = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert {path: text for path, text in after.items() if path.name != "lock"} == {
        path: text for path, text in before.items() if path.name != "lock"
    }


def test_a_state_folder_is_none_of_gits_business(built: Workspace) -> None:
    assert ".runrecord" not in built.run("git", "status", "--porcelain", "--untracked-files=all")


@pytest.mark.slow
def test_runs_of_the_old_layouts_commits_are_shown_compared_and_rebuilt(tmp_path: Path) -> None:
    """By that commit's own code, from a bundle of version 0.1; then today's code goes on."""
    folder = tmp_path / "repository"
    bundle = ROOT / "tests" / "data" / "version-0.1.bundle"
    subprocess.run(["git", "clone", "--quiet", "--branch=main", bundle, folder], check=True)
    old = Workspace(folder)
    set_to_sample(old)
    commit(old, "sample")
    assert old.repro("train-vae") == ["download-mnist", "train-vae"]
    commit(old, "results of version 0.1")
    (run,) = (folder / ".generative" / "spool").iterdir()

    for name in ("src", "stages"):
        shutil.rmtree(folder / name)
        shutil.copytree(ROOT / name, folder / name)
    for name in ("dvc.yaml", "pyproject.toml", ".dvcignore"):
        shutil.copyfile(ROOT / name, folder / name)
    params = old.params()
    del params["compute"]["checkpoint_every"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    commit(old, "today's code")
    identical = "Verdict: bit-identical: every metric at every step, and every file it wrote."
    assert identical in old.run("runrecord", "verify", "HEAD~1:vae")
    assert "cannot be rebuilt" not in old.run("runrecord", "verify", run.name)
    assert old.repro("train-vae") == ["download-mnist", "train-vae"]
    assert "Verdict: bit-identical" in old.run("runrecord", "compare", run.name, "records/vae")
    assert f"made by {run.name}" in old.run("runrecord", "which", "models/vae.safetensors")
    assert "0 created, 0 completed, 2 already there, 0 failed" in old.run("runrecord", "sync")
    assert len(runs(old, "train-vae")) == 2


def commit(workspace: Workspace, message: str) -> None:
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", f"--message={message}")
