"""Which epoch is kept and when training ends: by the losses so far, and of a stage killed."""

import json

import pytest
from workspaces import OUTS, RECORD_ONLY, TRAIN, Workspace, history, let_it_pause, spool, stop

from generative.core.config import LAST
from generative.models.registry import load_model
from generative.models.vae import VAE
from generative.pipeline.train import History, best_epoch, is_over
from runrecord.record.events import ModelSaved
from runrecord.record.reader import Record, files_in, view

KEEP = "Validation/Total Loss"


def losses(*values: float) -> History:
    return {"epoch": [float(n + 1) for n in range(len(values))], KEEP: [*values]}


@pytest.mark.parametrize(
    ("values", "best", "patience", "end"),
    [
        ([3.0, 1.0, 2.0, 2.0, 0.5], 5, 2, 4),
        ([3.0, 1.0, 2.0, 0.5, 2.0, 2.0, 2.0], 4, 3, 7),
        ([1.0, 1.0], 1, 1, 2),
        ([3.0, 2.0, 1.0], 3, 1, None),
        ([1.0, 2.0, 3.0], 1, 0, None),
    ],
)
def test_the_first_of_the_lowest_epochs_is_best_and_training_ends_without_a_lower_loss(
    values: list[float], best: int, patience: int, end: int | None
) -> None:
    assert best_epoch(losses(*values), KEEP) == best
    assert best_epoch(losses(*values), LAST) == len(values)
    numbers = range(1, len(values) + 1)
    over = [n for n in numbers if is_over(losses(*values[:n]), KEEP, patience)]
    assert over[:1] == ([] if end is None else [end])


@pytest.mark.slow
def test_a_training_that_chooses_its_epoch_is_the_same_wherever_it_was_stopped(
    workspace: Workspace,
) -> None:
    model, metrics = workspace.path / "models/vae.safetensors", "metrics/vae.json"
    let_it_pause(workspace)
    workspace.set_params(
        split__validation=56,
        vae__epochs=30,
        vae__batch_size=2,
        vae__lr=0.003,
        vae__beta=8,
        vae__keep="Validation/KL-Divergence",  # it grows as the model learns
        vae__patience=3,
    )
    output = workspace.run(*TRAIN, environment=RECORD_ONLY)
    undisturbed = [workspace.read(name) for name in OUTS]
    rows = history(workspace, "vae")
    best = min(rows, key=lambda row: float(row["Validation/KL-Divergence"]))
    kept, ended = int(best["epoch"]), len(rows)
    assert kept + 3 == ended < 30
    assert {key: float(value) for key, value in best.items()} == json.loads(workspace.read(metrics))
    lowest = f"{float(best['Validation/KL-Divergence']):.4f}"
    assert (
        f"vae: epoch {kept} is kept, with the lowest Validation/KL-Divergence, {lowest}; "
        f"training ended after epoch {ended} of 30: patience is 3\n"
    ) in output

    stop(workspace, kept, RUNRECORD_SINKS="off")
    model.unlink()
    model.mkdir()  # so that it fails behind its last epoch
    output = workspace.run(*TRAIN, environment=RECORD_ONLY, status=1)
    assert "resuming " in output
    assert f"epoch {ended}/30" in output
    model.rmdir()
    output = workspace.run(*TRAIN, environment=RECORD_ONLY)
    assert f"after epoch {ended - 1}\n" in output
    assert [workspace.read(name) for name in OUTS] == undisturbed
    left = (workspace.path / ".runrecord/checkpoints").rglob("*.safetensors")
    assert {int(path.stem) for path in left} == {ended - 1}, "for who wants it longer"
    for record in (Record(files_in(folder)) for folder in spool(workspace)):
        seen = view(record)
        assert [*seen.series["Validation/KL-Divergence"]] == [*range(1, ended + 1)]
        assert seen.tags["kept.epoch"] == str(kept)
        assert [e.step for e in record.events() if isinstance(e, ModelSaved)] == [kept]

    chosen = load_model(model, VAE).state_dict()
    workspace.set_params(vae__epochs=60)
    output = workspace.run(*TRAIN, environment=RECORD_ONLY)
    assert f"this run has its epochs 1 to {ended - 1}" in output
    assert f"training ended after epoch {ended} of 60" in output
    assert [workspace.read(name) for name in OUTS[1:]] == undisturbed[1:]
    longer = load_model(model, VAE).state_dict()
    workspace.set_params(vae__epochs=kept, vae__keep="last", vae__patience=0)
    workspace.run(*TRAIN, environment=RECORD_ONLY)
    of_that_epoch = load_model(model, VAE).state_dict()
    for name, weights in chosen.items():
        assert weights.equal(longer[name])
        assert weights.equal(of_that_epoch[name])
