"""Where and how the arithmetic runs, and what is random in it."""

import hashlib
import os
import sys
from contextlib import AbstractContextManager
from typing import Literal

import torch
from pydantic import Field

from generative.core.config import Section
from generative.core.fast_cpu import product, use_portable_products
from generative.core.variables import PORTABLE
from generative.errors import RunFailed, UserError
from generative.hardware import driver_version, needed_driver

CPU = torch.device("cpu")
PORTABLE_DIGEST = "e46c8e8e4b249076"
"""`portable_digest` on every x86-64 processor with AVX2, by this PyTorch."""


class Compute(Section):
    """The `compute` block of params.yaml."""

    device: str = Field(
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="auto, cpu, cuda or a GPU by its number, as cuda:1",
    )
    threads: int = Field(ge=1, le=1024, description="a whole number from 1 to 1024")
    precision: Literal["float32", "tf32", "bf16"] = Field(description="float32, tf32 or bf16")
    deterministic: bool = Field(description="true or false")
    portable: bool = Field(default=False, description="true or false")


def prepare(compute: Compute) -> torch.device:
    """Set PyTorch up as `compute` says, for the whole process; the device to work on.

    Raises:
        UserError: CUDA asked for where there is none, tf32 without CUDA, or portable with CUDA.
        RunFailed: arithmetic in this process is not the portable one.
    """
    check_compute(compute)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = CPU if compute.portable else _device(compute.device, gpus)
    if compute.precision == "tf32" and device.type != "cuda":
        raise UserError(
            "params.yaml: compute.precision is tf32, which needs CUDA; set it to float32 or bf16."
        )
    # cuBLAS reads this when its first handle is made; without it, it may add in another order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Averages of Adam decay to below 1e-38, where a CPU is slow: it took half as long again.
    torch.set_flush_denormal(True)  # inherited by the threads, which are not started yet
    # use_deterministic_algorithms() does this and imports the compiler, for seconds.
    torch.set_deterministic_debug_mode("error" if compute.deterministic else "default")
    # Costs time and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not compute.deterministic
    use_tf32(compute.precision == "tf32")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if compute.portable:
        _check_portable()
    use_portable_products(compute.portable)
    torch.set_num_threads(compute.threads)
    return device


def check_compute(compute: Compute) -> None:
    """Do the keys of the block go together?

    Raises:
        UserError: portable is asked for, and what is not.
    """
    if compute.portable and (compute.device.startswith("cuda") or compute.precision != "float32"):
        raise UserError(
            f"params.yaml: compute.portable is true, but compute.device is {compute.device} and "
            f"compute.precision {compute.precision}; only the CPU's float32 is portable: set them "
            "to cpu and float32, or portable to false."
        )


def portable_digest() -> str:
    """What a few operations that training is made of give, in 16 hexadecimal digits."""
    # oneDNN's 256-bit and 512-bit kernels add alike where there is less to add.
    first, second = torch.randn(2, 64, 784, generator=generator(CPU, 0, "portable"))
    moment, variance, gradient = first.clone(), second.square(), first - second
    step = torch.tensor(3.0)
    torch._fused_adam_(
        [moment],
        [gradient],
        [first * 0.1],
        [variance],
        [],
        [step],
        lr=1e-3,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.0,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
    )
    found = [product(first, second), (first @ second.T), first.exp(), second.softmax(1), moment]
    digest = hashlib.sha256()
    for tensor in found:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_portable() -> None:
    """Are variables set as they must be, and did libraries heed those of PyTorch?"""
    for name, value in PORTABLE.items():
        if os.environ.get(name) != value:
            raise RunFailed(
                f"compute.portable is true, but {name} is not {value}: call set_variables of "
                "generative.core.variables before any library is imported, as a stage does"
            )
    torch.set_num_threads(1)  # how sums are split among more is part of a result
    if (found := portable_digest()) != PORTABLE_DIGEST:
        raise RunFailed(
            f"compute.portable is true, but arithmetic here gives {found}, not {PORTABLE_DIGEST}: "
            "the processor has no AVX2, PyTorch is of another version than requirements.lock has, "
            "or it was used before its variables were set; set compute.portable to false in "
            "params.yaml"
        )


def use_tf32(wanted: bool) -> None:
    """Let a GPU multiply float32 with ten bits of mantissa, or not."""
    torch.backends.cudnn.allow_tf32 = wanted
    torch.backends.cuda.matmul.allow_tf32 = wanted


def _device(wanted: str, gpus: int) -> torch.device:
    """The device that `compute.device` means where PyTorch can use that many GPUs."""
    if wanted == "auto":
        if not gpus and (driver := driver_version()):
            print(
                f"warning: training on the CPU: there is an NVIDIA GPU that PyTorch cannot use "
                f"(driver {driver}, needed is {needed_driver()}); install that, or let "
                "compute.device be cpu in params.yaml.",
                file=sys.stderr,
            )
        return torch.device("cuda:0" if gpus else "cpu")
    if wanted == "cpu":
        return torch.device("cpu")
    device = torch.device(wanted if ":" in wanted else f"{wanted}:0")
    if device.index >= gpus:
        found = f"{gpus} of them" if gpus else "no usable CUDA device"
        raise UserError(
            f"params.yaml: compute.device is {wanted}, but PyTorch finds {found} here; set it to "
            f"{'cuda:0' if gpus else 'auto or cpu'}, or check the driver with nvidia-smi."
        )
    return device


def autocast(compute: Compute, device: torch.device) -> AbstractContextManager[object]:
    """The context in which forward passes run: bfloat16 where `precision` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=compute.precision == "bf16")


def generator(device: torch.device, seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """A random stream of its own for each purpose and epoch, so that none shifts another."""
    stream = torch.Generator(device)
    reseed(stream, seed, purpose, epoch)
    return stream


def reseed(stream: torch.Generator, seed: int, purpose: str, epoch: int = 0) -> None:
    """Set a stream to the beginning of that purpose's and epoch's."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    stream.manual_seed(int.from_bytes(digest[:8]) >> 1)
