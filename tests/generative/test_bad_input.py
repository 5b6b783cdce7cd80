"""Bad input, met by the real stages: one sentence, the right exit status, and nothing lost."""

from collections.abc import Callable
from pathlib import Path

import pytest
from workspaces import RECORD_ONLY, Workspace, assert_says, spool

from generative.errors import UserError
from generative.models.ae import AE
from generative.pipeline.evaluate import evaluate_all
from models import no_cuda
from runrecord.record.reader import Record, files_in
from runrecord.run.process import exit_status


def swap_models(workspace: Workspace) -> None:
    folder = workspace.path / "models"
    (folder / "ae.safetensors").rename(folder / "other")
    (folder / "vae.safetensors").rename(folder / "ae.safetensors")
    (folder / "other").rename(folder / "vae.safetensors")


@pytest.mark.parametrize(
    ("model", "values", "sentence"),
    [
        ("ae", {"ae__batch_size": 257}, "ae.batch_size is 257 ... 256 or less."),
        ("vae", {"vae__lr": "1,000"}, "vae.lr is '1,000' ... a number above 0."),
        (
            "vae",
            {"vae__keep": "Validation/Total Loss"},
            "vae.keep is 'Validation/Total Loss' ... split.validation is 0; set it",
        ),
        pytest.param(
            "ae",
            {"compute__device": "cuda"},
            "compute.device is cuda ... set it to auto or cpu",
            marks=no_cuda,
        ),
    ],
)
def test_bad_params_stop_a_stage_before_any_work(
    model: str, values: dict[str, object], sentence: str, workspace: Workspace
) -> None:
    workspace.set_params(**values)
    assert_nothing_is_begun(workspace, model, f"params.yaml: {sentence}")


def test_truncated_data_stops_a_stage_before_any_work(workspace: Workspace) -> None:
    file = workspace.path / "data/mnist/train-images-idx3-ubyte"
    content = file.read_bytes()
    file.unlink()  # it may be a link into DVC's cache
    file.write_bytes(content[:1000])
    said = "has 1,000 bytes where its header promises 200,720; delete data/mnist and run 'dvc repro"
    assert_nothing_is_begun(
        workspace, "vae", f"data/mnist/train-images-idx3-ubyte: {said} download-mnist'."
    )


def assert_nothing_is_begun(workspace: Workspace, model: str, sentence: str) -> None:
    before = outputs(workspace)
    said = workspace.run("python", f"stages/train_{model}.py", status=2)
    assert_says(said, f"error: {sentence}")
    assert said.count("\n") == 1
    assert outputs(workspace) == before
    assert spool(workspace) == [], "no run was begun"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(
            swap_models,
            "models/ae.safetensors: holds the model 'vae', not 'ae'; delete it and train it again "
            "with 'dvc repro'.",
            id="another model's file",
        ),
        pytest.param(
            lambda w: (w.path / "models/vae.safetensors").unlink(),
            "models/vae.safetensors: ... run 'dvc repro'.",
            id="no model file",
        ),
    ],
)
def test_bad_models_stop_the_evaluation_before_any_work(
    change: Callable[[Workspace], object],
    sentence: str,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: to import all that an evaluation needs takes a process of its own 5 s."""
    change(workspace)
    before = outputs(workspace)
    monkeypatch.chdir(workspace.path)
    assert exit_status(evaluate_all, mistakes=(UserError,)) == 2
    said = capsys.readouterr()
    assert_says(said.out + said.err, f"error: {sentence}")
    assert (said.out + said.err).count("\n") == 1
    assert outputs(workspace) == before
    assert spool(workspace) == [], "no run was begun"


def test_a_model_that_makes_images_of_another_size_stops_the_evaluation(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace.path)
    monkeypatch.setattr(AE, "reconstruct", lambda _, images: images[..., 1:])
    assert exit_status(evaluate_all, mistakes=(UserError,)) == 2
    assert "error: model 'ae' makes (64, 1, 28, 27) of images that are" in capsys.readouterr().err
    assert spool(workspace) == [], "no run was begun"


def outputs(workspace: Workspace) -> dict[Path, bytes]:
    folders = [workspace.path / name for name in ("models", "metrics")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


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


def test_sizes_that_do_not_fit_into_memory_are_one_sentence(workspace: Workspace) -> None:
    workspace.set_params(vae__latent_dim=10**13)
    output = workspace.run("python", "stages/train_vae.py", status=1)
    assert output.startswith("error: out of memory (")
    assert output.endswith("try smaller sizes in params.yaml.\n")
    assert "Traceback" not in output


def test_a_directory_that_is_no_repository_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    output = workspace.run("python", "stages/train_vae.py", status=2, DVC_ROOT=str(tmp_path))
    assert output == (
        f"error: DVC_ROOT is '{tmp_path}', which is no DVC repository; unset it or correct it.\n"
    )
