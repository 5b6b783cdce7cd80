"""Where and how the arithmetic runs: device, threads, precision, determinism."""

import os
import platform
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from generative.config import Section
from generative.errors import UserError


class Compute(Section):
    """The `compute` block of params.yaml."""

    device: Literal["auto", "cpu", "cuda"] = Field(description="auto, cpu or cuda")
    threads: int = Field(ge=1, le=1024, description="a whole number from 1 to 1024")
    precision: Literal["float32", "tf32", "bf16"] = Field(description="float32, tf32 or bf16")
    deterministic: bool = Field(description="true or false")


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


def device_name(device: torch.device) -> str:
    """What the hardware calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu() or platform.processor() or platform.machine()


def describe_device(device: torch.device) -> dict[str, str]:
    """What a run says of the device it computes on."""
    tags = {
        "device.name": device_name(device),
        "cpu.name": _cpu(),
        "cpu.capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        driver = re.search(r"Kernel Module\D*([\d.]+)", _read("/proc/driver/nvidia/version"))
        tags |= {
            "cuda.version": str(torch.version.cuda),
            "cuda.driver": driver.group(1) if driver else "",
            "cuda.cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        }
    return tags


def _cpu() -> str:
    lines = _read("/proc/cpuinfo").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
