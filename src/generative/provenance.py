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

from generative.errors import UserError
from generative.files import sha256_of
from generative.git import CODE, GitFailed, OutsideGit, commit_of, git
from generative.outputs import RECORDS
from generative.params import PARAMS_FILE, PIPELINE_FILE, Params, read_pipeline
from generative.redact import holds_secret, printable

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
    params: dict[str, object]
    """What params.yaml held under each key that the stage reads."""
    patch: bytes
    """What the code differed by from its commit, as `git apply` takes it."""
    trouble: str
    """Why the code of the run cannot be had again, if it cannot: a sentence for a person."""


def collect(
    checkout: Path,
    stage: str,
    params: Params,
    device: torch.device,
    environment: Mapping[str, str] = os.environ,
) -> Origin:
    """Where a run of `stage` comes from, taken before its work; what is not known is left out."""
    code, patch, trouble = _code(checkout)
    tags = {
        **code,
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
    shown = {
        key: printable(value)
        for key, value in tags.items()
        if value and not value.startswith("-") and not holds_secret(value)
    }
    deps, values = hash_deps(checkout, stage), params.values(_params_of(checkout, stage))
    return Origin(shown, deps, values, patch, trouble)


def changed_inputs(before: Origin, checkout: Path, stage: str) -> tuple[str, ...]:
    """What `stage` reads and is no longer what it was: dvc.lock would name what was not run.

    A dependency by its path; a param as `params.yaml: vae.beta (was 1, is 4)`.
    """
    deps = hash_deps(checkout, stage)
    names = before.deps.keys() | deps
    changed = [name for name in names if before.deps.get(name) != deps.get(name)]
    try:
        now = Params(checkout / PARAMS_FILE, checkout / PIPELINE_FILE).values(before.params)
    except UserError as error:
        return (*sorted(changed), printable(str(error).rstrip(".")))
    was, is_now = _leaves(before.params), _leaves(now)
    params = [
        f"{PARAMS_FILE}: {key} (was {was.get(key)}, is {is_now.get(key)})"
        for key in {**was, **is_now}
        if was.get(key) != is_now.get(key)
    ]
    return (*sorted(changed), *params)


def hash_deps(checkout: Path, stage: str) -> dict[str, str]:
    """SHA-256 of each dependency that dvc.yaml gives `stage`, by its path."""
    return _hashes(checkout, _stage(checkout, stage).get("deps", []))


def hash_outs(checkout: Path, stage: str) -> dict[str, str]:
    """SHA-256 of all that dvc.yaml has `stage` write, its record excepted, by its path."""
    names = outs_of(_stage(checkout, stage))
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


def _code(checkout: Path) -> tuple[dict[str, str], bytes, str]:
    """Tags that tell the code, its uncommitted change, and what stands in the way, if anything."""
    try:
        commit = commit_of(checkout, "HEAD")
        if commit is None:
            raise GitFailed("the Git repository has no commit yet")
        tags = {
            "git.commit": commit,
            "git.branch": git(checkout, "branch", "--show-current").decode().strip(),
            "git.remote": _remote(checkout),
        }
    except OutsideGit:
        return {}, b"", "the code of the run is not recorded: this is no Git repository."
    except GitFailed as error:
        return {"git.error": str(error)}, b"", f"the code of the run is not recorded: {error}."
    try:
        patch, left_out = _change(checkout)
    except GitFailed as error:
        patch, left_out = b"", f"left out: {error}"
    tags |= {"git.dirty": str(bool(patch or left_out)).lower(), "git.patch": left_out}
    trouble = (
        f"the uncommitted change is {left_out}; commit what the run needs." if left_out else ""
    )
    return tags, patch, trouble


def _remote(checkout: Path) -> str:
    try:
        address = git(checkout, "remote", "get-url", "origin").decode(errors="replace").strip()
    except GitFailed:  # there is none
        return ""
    return re.sub(r"//[^/\s]*@", "//", address)


def _change(checkout: Path) -> tuple[bytes, str]:
    """The uncommitted change to the code, new files included; else why it is left out.

    Made by Git's plumbing, which no setting of a person's shapes.

    Raises:
        GitFailed: Git refuses a file.
    """
    code = [name for name in CODE if (checkout / name).exists()]
    listing = ("ls-files", "-z", "--modified", "--others", "--exclude-standard", "--", *code)
    names = os.fsdecode(git(checkout, *listing)).split("\0")
    changed = [checkout / name for name in names if name]
    size = sum(path.lstat().st_size for path in changed if os.path.lexists(path))
    if size > _PATCH_LIMIT:
        return b"", f"left out: {size} bytes of files are changed, more than {_PATCH_LIMIT}"
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}  # the person's own stays untouched
        git(checkout, "read-tree", "HEAD", environment=index)
        git(checkout, "add", "--all", "--", *code, environment=index)
        diff = ("diff-index", "--cached", "-p", "--binary", "--no-color", "--no-ext-diff")
        shape = ("--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")
        patch = git(checkout, *diff, *shape, "HEAD", "--", *code, environment=index)
    if holds_secret(patch.decode(errors="replace")):
        return b"", "left out: it holds a password or a token"
    return patch, ""


def _stage(checkout: Path, stage: str) -> dict[str, Any]:
    """What dvc.yaml says of a stage; nothing if it no longer has it."""
    stages: dict[str, dict[str, Any]] = read_pipeline(checkout)["stages"]
    return stages.get(stage, {})


def _params_of(checkout: Path, stage: str) -> list[str]:
    return [key for key in _stage(checkout, stage).get("params", []) if isinstance(key, str)]


def _leaves(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested values by their dotted keys."""
    found: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _hashes(checkout: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: sha256_of(checkout / name) for name in names if (checkout / name).exists()}
