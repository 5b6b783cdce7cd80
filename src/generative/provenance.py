"""What a run is made from: commit and change, dependencies, machine and versions."""

import os
import platform
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from generative.files import sha256_of
from generative.git import CODE, git
from generative.outputs import RECORDS
from generative.params import read_pipeline
from generative.redact import holds_secret

_PACKAGES = ("torch", "numpy", "safetensors", "pillow", "matplotlib", "dvc", "mlflow")
_PATCH_LIMIT = 2**20  # bytes
_LOCK_FILE = Path("requirements.lock")

# Variables that change results: how many threads, which kernels, how exact.
_NUMERIC = re.compile(
    r"(OMP|MKL|KMP|GOMP|OPENBLAS|ONEDNN|DNNL|ATEN|TORCH|PYTORCH|CUBLAS|CUDNN|CUDA|NVIDIA)_"
    r"|PYTHONHASHSEED$"
)


@dataclass(frozen=True)
class Origin:
    """Where a run came from."""

    tags: dict[str, str]
    deps: dict[str, str]
    """SHA-256 of each of the stage's dependencies, by its path."""
    patch: bytes
    """What the code differed by from its commit, as `git apply` takes it."""


def collect(
    checkout: Path,
    stage: str,
    device: torch.device,
    environment: Mapping[str, str] = os.environ,
) -> Origin:
    """Where a run of `stage` comes from, taken before its work; what is not known is left out."""
    commit = _line(checkout, "rev-parse", "HEAD")
    patch, left_out = _change(checkout) if commit else (b"", "")
    remote = _line(checkout, "remote", "get-url", "origin")
    tags = {
        "git.commit": commit,
        "git.branch": _line(checkout, "branch", "--show-current"),
        "git.remote": re.sub(r"//[^/\s]*@", "//", remote),
        "git.dirty": str(bool(patch or left_out)).lower() if commit else "",
        "git.patch": left_out,
        "dvc.stage": environment.get("DVC_STAGE"),
        "dvc.experiment": environment.get("DVC_EXP_NAME"),
        "dvc.baseline": environment.get("DVC_EXP_BASELINE_REV"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "lock.sha256": sha256_of(checkout / _LOCK_FILE) if (checkout / _LOCK_FILE).exists() else "",
        **_device(device),
        **{f"env.{name}": value for name, value in environment.items() if _NUMERIC.match(name)},
        **{name: _version(name) for name in _PACKAGES},
    }
    shown = {key: value for key, value in tags.items() if value and not holds_secret(value)}
    return Origin(shown, hash_deps(checkout, stage), patch)


def changed_deps(before: Mapping[str, str], checkout: Path, stage: str) -> tuple[str, ...]:
    """Dependencies that are no longer what they were: dvc.lock would name what was not run."""
    now = hash_deps(checkout, stage)
    return tuple(sorted(name for name in before.keys() | now if before.get(name) != now.get(name)))


def hash_deps(checkout: Path, stage: str) -> dict[str, str]:
    """SHA-256 of each dependency that dvc.yaml gives `stage`, by its path."""
    return _hashes(checkout, read_pipeline(checkout)["stages"][stage]["deps"])


def hash_outs(checkout: Path, stage: str) -> dict[str, str]:
    """SHA-256 of all that dvc.yaml has `stage` write, its record excepted, by its path."""
    names = outs_of(read_pipeline(checkout)["stages"][stage])
    return _hashes(checkout, [name for name in names if not name.startswith(RECORDS)])


def outs_of(stage: Mapping[str, Any]) -> list[str]:
    """The paths of a stage's outs, metrics and plots; an entry may be a path with settings."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def device_name(device: torch.device) -> str:
    """What the hardware calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu() or platform.processor() or platform.machine()


def _device(device: torch.device) -> dict[str, str]:
    tags = {
        "device.name": device_name(device),
        "cpu.name": _cpu(),
        "cpu.capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        tags |= {
            "cuda.version": str(torch.version.cuda),
            "cuda.driver": _driver(),
            "cuda.cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        }
    return tags


def _cpu() -> str:
    lines = _read("/proc/cpuinfo").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else ""


def _driver() -> str:
    found = re.search(r"Kernel Module\D*([\d.]+)", _read("/proc/driver/nvidia/version"))
    return found.group(1) if found else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _change(checkout: Path) -> tuple[bytes, str]:
    """The uncommitted change to the code, new files included; else why it is left out."""
    code = [name for name in CODE if (checkout / name).exists()]
    listing = ("ls-files", "-z", "--modified", "--others", "--exclude-standard", "--", *code)
    changed = [checkout / name for name in git(checkout, *listing).decode().split("\0") if name]
    size = sum(path.stat().st_size for path in changed if path.exists())
    if size > _PATCH_LIMIT:
        return b"", f"left out: {size} bytes of files are changed, more than {_PATCH_LIMIT}"
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}  # the person's own stays untouched
        git(checkout, "read-tree", "HEAD", environment=index)
        git(checkout, "add", "--all", "--", *code, environment=index)
        diff = ("diff", "--cached", "--binary", "--no-color", "--no-ext-diff", "HEAD", "--", *code)
        patch = git(checkout, *diff, environment=index)
    if holds_secret(patch.decode(errors="replace")):
        return b"", "left out: it holds a password or a token"
    return patch, ""


def _line(checkout: Path, *arguments: str) -> str:
    return git(checkout, *arguments).decode(errors="replace").strip()


def _hashes(checkout: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: sha256_of(checkout / name) for name in names if (checkout / name).exists()}
