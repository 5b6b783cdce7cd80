"""What `runrecord` is told of this experiment; pyproject.toml names it."""

import json
from pathlib import Path

from generative.serving import save_model
from runrecord.errors import UserError
from runrecord.project import ModelFlavor, Project


def _device(root: Path) -> str:
    from generative import hardware
    from generative.core import compute as runtime
    from generative.core.config import PARAMS_FILE, PIPELINE_FILE, Params

    compute = Params(root / PARAMS_FILE, root / PIPELINE_FILE).section("compute", runtime.Compute)
    # Whether it is portable only a new process can tell.
    device = runtime.prepare(compute.model_copy(update={"portable": False}))
    name, driver = hardware.device_name(device), hardware.driver_version() or "none"
    return (
        f"{device.type} ({name}), {compute.threads} threads; NVIDIA driver: "
        f"{driver} (a GPU needs {hardware.needed_driver()})"
    )


def _data(root: Path) -> str:
    from generative.core.config import PARAMS_FILE, PIPELINE_FILE, Data, Params
    from generative.data.download import mismatches
    from generative.data.sources import KNOWN, sha256_of

    data = Params(root / PARAMS_FILE, root / PIPELINE_FILE).section("data", Data)
    if not (root / data.directory).is_dir():
        raise UserError(f"{data.directory} is missing; 'dvc repro download-mnist' gets it")
    if wrong := mismatches(root / data.directory, data):
        raise UserError(
            f"{data.directory}: {'; '.join(wrong)}; to get them again, delete the folder and run "
            "'dvc repro download-mnist'"
        )
    if data.sha256 is None and (data.name not in KNOWN or KNOWN[data.name].sha256 is None):
        found = sha256_of(root / data.directory)
        return f"the files in {data.directory}, not checked: data.sha256 is null; theirs is {found}"
    return f"the files in {data.directory}, SHA-256 checked"


PROJECT = Project(
    experiment="mnist-generative",
    code=("src", "stages", "params.yaml", "dvc.yaml", "requirements.lock"),
    packages=("torch", "numpy", "safetensors", "pillow", "matplotlib", "dvc", "mlflow"),
    headline=(
        "Likelihood/ELBO",
        "Likelihood/IWAE Bound",
        "Unnormalised Likelihood/ELBO",
        "Unnormalised Likelihood/IWAE Bound",
        "Reconstruction/MSE",
        "Reconstruction/SSIM",
        "Denoising/MSE at 0.3",
        "Latents/Probe Accuracy",
        "Samples/MMD2",
        "Samples/Classifier Frechet Distance",
    ),
    better={
        **dict.fromkeys(("PSNR", "SSIM", "Accuracy", "ELBO", "Bound"), "higher"),
        **dict.fromkeys(("Classes Drawn", "Class Evenness"), "higher"),
        **dict.fromkeys(("MSE", "BCE", "MMD2", "Frechet Distance"), "lower"),
    },
    descriptions=dict.fromkeys(
        (
            f"{split}/{loss}"
            for split in ("Train", "Validation", "Test")
            for loss in ("Reconstruction Error", "KL-Divergence", "Total Loss")
        ),
        "A mean over the images of a batch. The book adds up the variational autoencoder's losses "
        "over a batch of 100: its curves are 100 times as high. "
        "/ 배치에 든 이미지의 평균입니다. "
        "교재의 변형 오토인코더 곡선은 이미지 100개의 합이므로 100배 높습니다.",
    ),
    test_metrics=("metrics/evaluation.json:*", "*:Test/*"),
    **json.loads(Path(__file__).with_name("spread.json").read_text()),  # docs/seeds.md
    params=("latent_dim", "target", "beta", "epochs", "batch_size", "lr", "optimizer", "seed"),
    curves=(
        "Train/Total Loss",
        "Test/Total Loss",
        "Train/Generator Loss",
        "Train/Discriminator Loss",
    ),
    flavor=ModelFlavor("generative model", save_model),
    checks={"device": _device, "data": _data},
)
