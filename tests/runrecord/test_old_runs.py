"""What version 0.1 left behind goes on being read; nothing new is written there."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    ROOT,
    SAMPLE,
    SAMPLE_FILES,
    Workspace,
    end_run,
    new_repository,
    new_run,
    runs,
    set_to_sample,
)

from runrecord import start_run
from runrecord.cli.compare import show_comparison
from runrecord.cli.runs import list_runs
from runrecord.cli.show import show
from runrecord.cli.sync import sync
from runrecord.record.events import File, Logged, ModelSaved, RunEnded, RunStarted
from runrecord.record.reader import Record
from runrecord.store.files import sha256
from runrecord.store.runs import run_dirs


def write_as_format_1(record: Record, folder: Path) -> None:
    """What version 0.1 would have written of a training: an event an epoch, files by its step."""
    lines: list[dict[str, Any]] = []
    files: dict[str, File] = {}
    for event in record.events():
        match event:
            case RunStarted():
                start = {"format": 1, "models": {}, **asdict(event), "patch": None}
            case Logged() if event.metrics:
                epoch = {"epoch": event.step, "means": event.metrics, "steps": event.steps}
                lines.append({"event": "epoch", "time": event.time, **epoch, "images": {}})
            case Logged():
                for title, file in event.images.items():
                    name = f"images/{title}/{event.step}.png"
                    lines[-1]["images"][title] = name
                    files[name] = file
            case ModelSaved():
                name = f"artifacts/{event.filename}"
                held = {"file": name, "sha256": event.file.sha256, "epoch": event.step}
                files[name] = event.file
                lines.append({"event": "model", "time": event.time, "name": event.name, **held})
            case RunEnded():
                lines.append(asdict(event))
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(record.contents[file.name], folder / name)
    (folder / "run.json").write_text(json.dumps(start))
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_an_old_run_store_is_read_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "mnist-generative"
    root.mkdir()
    new_repository(root)
    monkeypatch.chdir(root)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = new_run(tmp_path / "today", id="vae-of-old", params={"lr": 0.1})
    for epoch in (1, 2):
        run.log({"loss": 1 / epoch}, epoch, {"loss": [2 / epoch, 0.5 / epoch]})
        run.image("picture", np.full((4, 4), epoch, np.uint8), epoch)
    model = tmp_path / "vae.safetensors"
    model.write_bytes(b"weights")
    run.model(model, step=2)
    today = end_run(tmp_path / "today")
    old = root / ".generative" / "spool" / "vae-of-old"
    write_as_format_1(today, old)
    before = contents(old)

    def said(command: Callable[..., None], *arguments: Any) -> str:
        command(*arguments)
        return capsys.readouterr().out

    assert "vae-of-old" in said(list_runs)
    assert "FINISHED" in said(show, "vae-of-old")
    same = said(show_comparison, "vae-of-old", str(tmp_path / "today"), 0.0, False)
    assert "Verdict: bit-identical" in same
    assert "picture" not in same
    assert "1 created" in said(sync, False, False)
    assert "1 already there" in said(sync, False, False)
    (shown,) = runs(Workspace(root))
    assert shown.info.run_name == "vae-of-old"
    assert shown.data.metrics == {"loss": 0.5}
    monkeypatch.setenv("RUNRECORD_SINKS", "off")
    with start_run("train"):
        pass
    assert {folder.parent for folder in run_dirs(root)} == {
        old.parent,
        root / ".runrecord" / "runs",
    }
    assert contents(old) == before
    status = Workspace(root).run("git", "status", "--porcelain", "--untracked-files=all")
    assert ".runrecord" not in status, "it is none of Git's business"


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.mark.slow
def test_runs_of_the_old_layouts_commits_are_shown_compared_and_rebuilt(tmp_path: Path) -> None:
    """By that commit's own code, from a bundle of version 0.1; then today's code goes on."""
    folder = tmp_path / "repository"
    bundle = ROOT / "tests" / "data" / "version-0.1.bundle"
    subprocess.run(["git", "clone", "--quiet", "--branch=main", bundle, folder], check=True)
    old = Workspace(folder)
    short = {"epochs": 2, "batch_size": 100, "hidden_dim": 32, "latent_dim": 8}
    digests = {key: sha256(SAMPLE / name) for key, name in SAMPLE_FILES.items()}
    old.set_params(
        compute__device="cpu",
        **{f"data__{key}": digest for key, digest in digests.items()},
        **{f"vae__{key}": value for key, value in short.items()},
    )
    commit(old, "sample")
    assert old.repro("train-vae") == ["download-mnist", "train-vae"]
    commit(old, "results of version 0.1")
    (run,) = (folder / ".generative" / "spool").iterdir()

    for name in ("src", "stages"):
        shutil.rmtree(folder / name)
        shutil.copytree(ROOT / name, folder / name)
    for name in ("dvc.yaml", "params.yaml", "pyproject.toml", ".dvcignore"):
        shutil.copyfile(ROOT / name, folder / name)
    set_to_sample(old)
    commit(old, "today's code")
    assert "Verdict: bit-identical: " in old.run("runrecord", "verify", "HEAD~1:vae")
    assert "cannot be rebuilt" not in old.run("runrecord", "verify", run.name)
    assert old.repro("train-vae") == ["download-mnist", "train-vae"]
    # Where today's layers go to another library than that version's, their last bits differ.
    compared = old.run("runrecord", "compare", run.name, "records/vae")
    same = "Verdict: bit-identical" in compared
    assert same or re.search(r"the largest relative difference is \S+e-0[5-9] ", compared)
    made = old.run("runrecord", "which", "models/vae.safetensors")
    assert (f"made by {run.name}" in made) == same
    assert "0 created, 0 completed, 3 already there, 0 failed" in old.run("runrecord", "sync")
    assert len(runs(old, "train-vae")) == 2


def commit(workspace: Workspace, message: str) -> None:
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", f"--message={message}")
