"""The machine, the versions and the variables of a run; all that a run comes from."""

import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runrecord.dvc_index import committed_params
from runrecord.files import sha256
from runrecord.project import Project
from runrecord.provenance.pipeline import Inputs, read_inputs
from runrecord.provenance.source_patch import describe_code
from runrecord.secrets import OWN_TAGS, holds_secret, redact
from runrecord.text import printable

LOCK_FILE = Path("requirements.lock")

_LONGEST_TITLE = 40
_LONGEST_VALUE = 16  # characters of a param in it

# Variables that change results: how many threads, which kernels, how exact.
_NUMERIC = re.compile(
    r"(OMP|MKL|KMP|GOMP|OPENBLAS|ONEDNN|DNNL|ATEN|TORCH|PYTORCH|CUBLAS|CUDNN|CUDA|NVIDIA)_"
    r"|PYTHONHASHSEED$"
)


@dataclass(frozen=True)
class Origin:
    """Where a run came from."""

    inputs: Inputs
    tags: Mapping[str, str]
    patch: bytes
    """What the code differed by from its commit, as `git apply` takes it."""
    trouble: str
    """Why the run cannot be had again, if it cannot: a sentence for a person."""
    title: str
    """What a person knows the run by: its stage, after what tells it from the committed one."""


def collect_origin(
    checkout: Path,
    stage: str,
    cwd: Path,
    project: Project,
    told: Mapping[str, object],
    environment: Mapping[str, str] = os.environ,
) -> Origin:
    """Where a run of `stage` comes from, taken before its work; what is not known is left out.

    Args:
        checkout: the root of the DVC repository that the stage runs in.
        stage: as DVC_STAGE names it.
        cwd: where it runs.
        project: what its code and its packages are.
        told: more tags, of what it computes on for instance.
        environment: variables.

    Raises:
        UserError: DVC cannot read its files.
    """
    inputs = read_inputs(checkout, stage, cwd)
    code, patch, trouble = describe_code(checkout, project.code, inputs.generated)
    if not inputs.stage.commands and not trouble:
        trouble = f"no dvc.yaml has the stage '{stage}'."
    lock = checkout / LOCK_FILE
    tags = {
        **code,
        "dvc.stage": environment.get("DVC_STAGE"),
        "dvc.experiment": environment.get("DVC_EXP_NAME"),
        "dvc.baseline": environment.get("DVC_EXP_BASELINE_REV"),
        "dvc.shell": environment.get("SHELL") if "DVC_STAGE" in environment else None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "lock.sha256": sha256(lock) if lock.exists() else "",
        **{name: str(value) for name, value in told.items()},
        **{f"env.{name}": value for name, value in environment.items() if _NUMERIC.match(name)},
        **versions(project.packages),
    }
    shown = {
        key: printable(value)
        for key, value in tags.items()
        if value and not value.startswith("-") and (key in OWN_TAGS or not holds_secret(value))
    }
    title = environment.get("DVC_EXP_NAME") or _changes(checkout, inputs.params)
    stage = inputs.stage.name
    return Origin(
        inputs, shown, patch, trouble, f"{redact(title)[:_LONGEST_TITLE]}-{stage}".lstrip("-")
    )


def _changes(checkout: Path, params: Mapping[str, object]) -> str:
    """Which of those params the commit at hand has otherwise, as `target=clean`."""
    committed = committed_params(checkout)
    return ",".join(
        f"{key.rpartition('.')[2]}={str(value)[:_LONGEST_VALUE]}"
        for key, value in params.items()
        if key in committed and committed[key] != value
    )


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of each package that is installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
