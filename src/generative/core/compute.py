"""Where and how the arithmetic runs, and what is random in it."""

import hashlib
import os
from contextlib import AbstractContextManager
from typing import Literal

import torch
from pydantic import Field

from generative.checks import check_compute
from generative.core.config import Section
from generative.core.fast_cpu import check_arithmetic, use_portable_products
from generative.errors import UserError
from generative.hardware import warn_of_unusable_gpu

CPU = torch.device("cpu")


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
        check_arithmetic()
    use_portable_products(compute.portable)
    torch.set_num_threads(compute.threads)
    return device


def use_tf32(wanted: bool) -> None:
    """Let a GPU multiply float32 with ten bits of mantissa, or not."""
    torch.backends.cudnn.allow_tf32 = wanted
    torch.backends.cuda.matmul.allow_tf32 = wanted


def _device(wanted: str, gpus: int) -> torch.device:
    """The device that `compute.device` means where PyTorch can use that many GPUs."""
    if wanted == "auto" and not gpus:
        warn_of_unusable_gpu()
    if wanted == "cpu" or (wanted == "auto" and not gpus):
        return CPU
    device = torch.device(wanted if ":" in wanted else "cuda:0")
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
