"""What DVC shows of a training that still goes on."""

import json
import re
from pathlib import Path

import pytest
from workspaces import RECORD_ONLY, Workspace, history, wait_until

from generative.pipeline.stage import epochs_shown

METRICS, HISTORY = Path("metrics/vae.json"), Path("metrics/vae_history.csv")


def test_metrics_and_history_grow_until_the_training_ends(workspace: Workspace) -> None:
    metrics = workspace.path / METRICS
    keys = json.loads(metrics.read_bytes()).keys()
    workspace.set_params(vae__epochs=100_000)
    metrics.unlink()
    with workspace.start("dvc", "repro", "train-vae", **RECORD_ONLY) as process:
        try:
            wait_until(metrics.exists)
            first = json.loads(metrics.read_bytes())
            assert first.keys() == keys
            wait_until(lambda: json.loads(metrics.read_bytes())["epoch"] > first["epoch"])
            output = workspace.run("dvc", "exp", "show", "--json")
            (now, *_) = json.loads(output[output.index("[{") :])
            assert now["data"]["metrics"][str(METRICS)]["data"]["epoch"] > first["epoch"]
            epochs = [row["epoch"] for row in history(workspace, "vae")]
            assert epochs == [str(n + 1) for n in range(len(epochs))]
        finally:
            process.kill()
        assert process.stdout is not None
        process.stdout.read()  # until the training has ended, too
    for name in (METRICS, HISTORY):
        assert not (workspace.path / name).exists(), "nobody takes them for results"


def test_the_bar_of_a_resumed_training_stands_at_its_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with epochs_shown("vae", 30) as show:
        show(13, {}, 1.0)
    assert re.search(r"(?<!epoch )\b13/30", re.sub(r"\x1b\[[\d;?]*\w", "", capsys.readouterr().out))
