"""Where and how the arithmetic runs: device, threads, precision, determinism."""

import hashlib
import os
from contextlib import AbstractContextManager
from typing import Literal

import torch
from pydantic import Field

from generative.errors import UserError
from generative.params import Section


class Compute(Section):
    """The `compute` block of params.yaml."""

    device: Literal["auto", "cpu", "cuda"] = Field(description="auto, cpu or cuda")
    threads: int = Field(ge=1, le=1024, description="a whole number from 1 to 1024")
    precision: Literal["float32", "tf32", "bf16"] = Field(description="float32, tf32 or bf16")
    deterministic: bool = Field(description="true or false")
    checkpoint_every: int = Field(ge=1, description="a whole number of epochs, 1 or more")


def prepare(compute: Compute) -> torch.device:
    """Set PyTorch up as `compute` says, for the whole process; the device to work on.

    Raises:
        UserError: CUDA asked for where there is none, or tf32 without CUDA.
    """
    available = torch.cuda.is_available()
    if compute.device == "cuda" and not available:
        raise UserError(
            "params.yaml: compute.device is cuda, but PyTorch finds no usable CUDA device here; "
            "set it to auto or cpu, or check the driver with nvidia-smi."
        )
    device = torch.device("cuda" if available and compute.device != "cpu" else "cpu")
    if compute.precision == "tf32" and device.type != "cuda":
        raise UserError(
            "params.yaml: compute.precision is tf32, which needs CUDA; set it to float32 or bf16."
        )
    # cuBLAS reads this when its first handle is made; without it, it may add in another order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(compute.threads)
    # Averages of Adam decay to below 1e-38, where a CPU is slow: it took half as long again.
    torch.set_flush_denormal(True)  # inherited by the threads, which are not started yet
    # use_deterministic_algorithms() does this and imports the compiler, for seconds.
    torch.set_deterministic_debug_mode("error" if compute.deterministic else "default")
    # Costs time and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not compute.deterministic
    torch.backends.cudnn.allow_tf32 = compute.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = compute.precision == "tf32"
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
