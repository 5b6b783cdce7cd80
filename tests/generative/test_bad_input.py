"""Bad input, met by the real stages: one sentence, the right exit status, and nothing lost."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from workspaces import RECORD_ONLY, ROOT, SAMPLE, Workspace, assert_says, set_to_sample, spool

from generative.errors import UserError
from generative.models.ae import AE
from generative.models.vae import VAE
from generative.pipeline.evaluate import evaluate_all
from generative.pipeline.train import train
from models import ae, gan, vae
from runrecord.record.reader import Record, files_in
from runrecord.run.process import exit_status

STAGES: dict[str, Callable[[], None]] = {
    "train-ae": partial(train, AE),
    "train-vae": partial(train, VAE),
    "evaluate": evaluate_all,
}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """What the stages read: the sample and untrained models. This process works there."""
    workspace = Workspace(tmp_path / "repository")
    shutil.copytree(SAMPLE, workspace.path / "data" / "mnist")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, workspace.path)
    set_to_sample(workspace)
    (workspace.path / "models").mkdir()
    for model in (ae(), vae(), gan()):
        (workspace.path / "models" / f"{model.name}.safetensors").write_bytes(model.to_bytes())
    monkeypatch.chdir(workspace.path)
    return workspace


def params(**values: object) -> Callable[[Workspace], object]:
    return lambda workspace: workspace.set_params(**values)


def truncated(workspace: Workspace) -> None:
    file = workspace.path / "data/mnist/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])


def another_models(workspace: Workspace) -> None:
    shutil.copy(workspace.path / "models/vae.safetensors", workspace.path / "models/ae.safetensors")


def without_model(workspace: Workspace) -> None:
    (workspace.path / "models/vae.safetensors").unlink()


PARAMS, DATA = "params.yaml:", "data/mnist/train-images-idx3-ubyte:"


@pytest.mark.parametrize(
    ("stage", "change", "sentence"),
    [
        ("train-ae", params(ae__batch_size=257), f"{PARAMS} ae.batch_size is 257 ... 256 or less."),
        ("train-vae", params(vae__lr="1,000"), f"{PARAMS} vae.lr is '1,000' ... above 0."),
        (
            "train-vae",
            params(vae__keep="Validation/Total Loss"),
            f"{PARAMS} vae.keep is 'Validation/Total Loss' ... split.validation is 0; set it",
        ),
        ("train-vae", params(vae__latent_dim=10**13), "out of memory ( ... try smaller sizes"),
        (
            "train-vae",
            truncated,
            f"{DATA} has 1,000 bytes ... delete data/mnist and run 'dvc repro",
        ),
        (
            "evaluate",
            another_models,
            "models/ae.safetensors: holds the model 'vae' ... 'dvc repro'.",
        ),
        ("evaluate", without_model, "models/vae.safetensors: ... run 'dvc repro'."),
    ],
)
def test_bad_input_stops_a_stage_before_any_work(
    stage: str,
    change: Callable[[Workspace], object],
    sentence: str,
    small: Workspace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(small)
    before = files(small)
    assert exit_status(STAGES[stage], mistakes=(UserError,)) == (1 if "memory" in sentence else 2)
    said = capsys.readouterr()
    assert_says(said.out + said.err, f"error: {sentence}")
    assert (said.out + said.err).count("\n") == 1
    assert files(small) == before, "no run was begun"


def files(workspace: Workspace) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in workspace.path.rglob("*") if path.is_file()}


def test_a_model_that_makes_images_of_another_size_stops_the_evaluation(
    small: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(AE, "reconstruct", lambda _, images: images[..., 1:])
    assert exit_status(evaluate_all, mistakes=(UserError,)) == 2
    assert "error: model 'ae' makes (64, 1, 28, 27) of images that are" in capsys.readouterr().err
    assert spool(small) == [], "no run was begun"


def test_a_directory_that_is_no_repository_is_refused(
    small: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(small.path))
    with pytest.raises(SystemExit) as end:
        train(VAE)
    assert end.value.code == 2
    said = f"error: DVC_ROOT is '{small.path}', which is no DVC repository; unset it or correct it."
    assert said in capsys.readouterr().err


@pytest.mark.needs("mounts")
def test_a_full_disk_fails_the_run_and_leaves_the_model_before_it(workspace: Workspace) -> None:
    (workspace.path / "small").mkdir()
    size = (workspace.path / "models/vae.safetensors").stat().st_size
    script = f"""
        set -e
        mount -t tmpfs -o size={size + 8192} none small
        cp models/vae.safetensors small/
        mount --bind small models
        python stages/train_vae.py && exit 9
        test $? = 1
        cmp models/vae.safetensors small/vae.safetensors
        ls -A models
    """
    unshared = ("unshare", "--mount", "--map-root-user", "sh", "-c", script)
    output = workspace.run(*unshared, environment=RECORD_ONLY)
    assert "error: models/vae.safetensors: No space left on device.\n" in output
    assert "Traceback" not in output
    assert ".vae.safetensors" not in output, "no half file stays"
    (folder,) = spool(workspace)
    end = Record(files_in(folder)).end
    assert end is not None
    assert end.status == "FAILED"
    assert "No space left" in end.message
