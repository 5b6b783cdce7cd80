"""What DVC shows of a training that still goes on."""

import json
import re
import signal
from pathlib import Path

import pytest
from workspaces import RECORD_ONLY, TRAIN, Workspace, history, let_it_pause, wait_until

from generative.pipeline.stage import epochs_shown

METRICS, HISTORY = Path("metrics/vae.json"), Path("metrics/vae_history.csv")


def epoch_shown_by_dvc(workspace: Workspace) -> int:
    """The epoch that `dvc exp show` has for the workspace; 0 for none."""
    output = workspace.run("dvc", "exp", "show", "--json")
    shown = json.loads(output[output.index("[{") :])
    metrics = shown[0]["data"]["metrics"]
    return int(metrics.get(str(METRICS), {}).get("data", {}).get("epoch", 0))


def test_metrics_and_history_grow_until_the_training_ends(workspace: Workspace) -> None:
    keys = json.loads(workspace.read(str(METRICS))).keys()
    workspace.set_params(vae__epochs=100_000)
    (workspace.path / METRICS).unlink()
    with workspace.start("dvc", "repro", "train-vae", **RECORD_ONLY) as process:
        try:
            wait_until(lambda: (workspace.path / METRICS).exists())
            first = epoch_shown_by_dvc(workspace)
            assert json.loads(workspace.read(str(METRICS))).keys() == keys
            wait_until(lambda: epoch_shown_by_dvc(workspace) > first)
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


@pytest.mark.slow
def test_a_training_that_goes_on_writes_all_epochs_again(workspace: Workspace) -> None:
    before = [workspace.read(str(name)) for name in (METRICS, HISTORY)]
    let_it_pause(workspace)
    workspace.set_params(vae__epochs=4)
    (workspace.path / HISTORY).unlink()
    with workspace.start(*TRAIN, **RECORD_ONLY, PAUSE_AFTER="2") as process:
        wait_until(
            lambda: (workspace.path / HISTORY).exists() and len(history(workspace, "vae")) > 1
        )
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 143
    assert not (workspace.path / HISTORY).exists()
    output = workspace.run(*TRAIN, environment=RECORD_ONLY)
    assert "resuming " in output
    assert [row["epoch"] for row in history(workspace, "vae")] == ["1", "2", "3", "4"]
    assert [workspace.read(str(name)) for name in (METRICS, HISTORY)] != before
