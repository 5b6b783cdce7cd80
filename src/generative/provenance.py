"""What a run is made from: commit, change, DVC's experiment, machine and versions, as tags."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGES = ("torch", "numpy", "dvc", "mlflow")


def collect(
    checkout: Path, device: torch.device, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The tags that tell where a run came from; what is not known is left out."""
    commit = _git(checkout, "rev-parse", "HEAD")
    change = _git(checkout, "status", "--porcelain", "--", "src", "stages", "params.yaml")
    tags = {
        "git.commit": commit,
        "git.branch": _git(checkout, "branch", "--show-current"),
        "git.dirty": None if change is None else str(bool(change)).lower(),
        "dvc.stage": environment.get("DVC_STAGE"),
        "dvc.experiment": environment.get("DVC_EXP_NAME"),
        "dvc.baseline": environment.get("DVC_EXP_BASELINE_REV"),
        "python": platform.python_version(),
        "device.name": device_name(device),
        **{name: version(name) for name in _PACKAGES},
    }
    return {key: value for key, value in tags.items() if value}


def device_name(device: torch.device) -> str:
    """What the hardware calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=checkout, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
