"""What some tests need besides the locked packages: is it here, and what would install it?

`@pytest.mark.needs("sshd")` skips a test where sshd is missing, before any fixture is made. A test
with a fixture of `FIXTURES` gets that mark by itself. `pytest --bare` skips all such tests.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from stops import SUPPORTED, WHY_NOT


def program(*names: str) -> str | None:
    """The path of the first of these programs that is installed, also for the system alone."""
    search = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    return next(filter(None, (shutil.which(name, path=search) for name in names)), None)


def works(*command: str) -> bool:
    """Does a command end well?"""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def packages(*modules: str) -> bool:
    """Are these modules installed?"""
    return all(map(find_spec, modules))


CHROMIUM = program("chromium", "chromium-browser")
SSHD = program("sshd")
SUPPLY_CHAIN = Path(__file__).parents[1] / ".venv-supply-chain"
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
MOUNT = ("mount", "-t", "tmpfs", "none", "/mnt")
AS_ROOT = os.geteuid() == 0
PRIVILEGED = "run the tests as root, a container's with: docker run --privileged"


@dataclass(frozen=True)
class Need:
    """Something that tests need."""

    missing: str  # the sentence that says so, and what would change it
    probe: Callable[[], object]

    @cached_property
    def here(self) -> bool:
        return bool(self.probe())


NEEDS = {
    "chromium": Need("Chromium is not installed: apt-get install chromium", lambda: CHROMIUM),
    "sshd": Need("sshd is not installed: apt-get install openssh-server", lambda: SSHD),
    "strace": Need("strace is not installed: apt-get install strace", lambda: program("strace")),
    "postgresql": Need("PostgreSQL is not installed: apt-get install postgresql", lambda: POSTGRES),
    "sweep": Need(
        "Ray and Optuna are not installed: make setup EXTRAS=sweep",
        lambda: packages("ray", "optuna"),
    ),
    "ssh": Need("dvc-ssh is not installed: make setup EXTRAS=ssh", lambda: packages("dvc_ssh")),
    "s3": Need("dvc-s3 is not installed: make setup EXTRAS=s3", lambda: packages("dvc_s3")),
    "s3-server": Need(
        "moto's S3 server is not installed: make setup EXTRAS=s3-server", lambda: packages("moto")
    ),
    "notebook": Need(
        "Jupyter is not installed: make setup EXTRAS=notebook",
        lambda: packages("ipykernel", "nbclient", "pylopdf_fonts_ko"),
    ),
    "frameworks": Need(
        "Lightning and Transformers are not installed: make setup EXTRAS=frameworks",
        lambda: packages("accelerate", "lightning", "transformers"),
    ),
    "jsonschema": Need(
        "jsonschema is not installed: make setup EXTRAS=notebook", lambda: packages("jsonschema")
    ),
    "supply-chain": Need(
        "pip-audit and cyclonedx-bom are not installed: make audit",
        lambda: SUPPLY_CHAIN.joinpath("installed").exists(),
    ),
    "root": Need(f"this user is not root: {PRIVILEGED}", lambda: AS_ROOT),
    "namespaces": Need(
        f"this process may make no namespaces: {PRIVILEGED}",
        lambda: works("unshare", "--uts", "--pid", "--fork", "true"),
    ),
    "mounts": Need(
        f"this process may mount nothing: {PRIVILEGED}",
        lambda: works("unshare", "--mount", "--map-root-user", *MOUNT),
    ),
    "root-mounts": Need(
        f"this user may mount nothing for others: {PRIVILEGED}",
        lambda: AS_ROOT and works("unshare", "--mount", *MOUNT),
    ),
    "ptrace": Need(f"{WHY_NOT}: run the tests there", lambda: SUPPORTED),
    "qemu": Need(
        "QEMU is not installed: apt-get install qemu-user", lambda: program("qemu-x86_64")
    ),
    "avx2": Need(
        "this processor has no AVX2: run the test on one that has",
        lambda: torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    ),
    "avx512": Need(
        "this processor has no AVX-512: run the test on one that has",
        lambda: torch.backends.cpu.get_cpu_capability().startswith("AVX512"),
    ),
    "mkl": Need(
        "PyTorch is built without MKL, whose kernels this test changes: run it on x86-64",
        torch.backends.mkl.is_available,
    ),
    "cuda": Need(
        "PyTorch finds no CUDA device: run the tests on a machine with one",
        torch.cuda.is_available,
    ),
}


def require(*names: str) -> None:
    """Skip the test that runs, where one of these is missing: for what starts a server."""
    for name in names:
        if not NEEDS[name].here:
            pytest.skip(NEEDS[name].missing)


FIXTURES = {"page": ("chromium",), "on_ssh": ("sshd", "ssh"), "on_s3": ("s3", "s3-server")}
