"""Where and how the arithmetic runs: device, threads, precision, determinism."""

import os
import platform
import re
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from generative.config import Section
from generative.errors import UserError


class Compute(Section):
    """The `compute` block of params.yaml."""

    device: str = Field(
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="auto, cpu, cuda or a GPU by its number, as cuda:1",
    )
    threads: int = Field(ge=1, le=1024, description="a whole number from 1 to 1024")
    precision: Literal["float32", "tf32", "bf16"] = Field(description="float32, tf32 or bf16")
    deterministic: bool = Field(description="true or false")


def prepare(compute: Compute) -> torch.device:
    """Set PyTorch up as `compute` says, for the whole process; the device to work on.

    Raises:
        UserError: CUDA asked for where there is none, or tf32 without CUDA.
    """
    device = _device(compute.device, torch.cuda.device_count() if torch.cuda.is_available() else 0)
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
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


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


def driver_version() -> str:
    """The version of NVIDIA's driver; empty where there is none."""
    found = re.search(r"Kernel Module\D*([\d.]+)", _read("/proc/driver/nvidia/version"))
    return found[1] if found else ""


def needed_driver() -> str:
    """The driver that the installed PyTorch needs for a GPU, as NVIDIA's release notes say."""
    cuda = str(torch.version.cuda or "").partition(".")[0]
    oldest = {"11": "450", "12": "525", "13": "580"}.get(cuda)
    return f"{oldest} or newer" if oldest else "one for a PyTorch with CUDA"


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
        tags |= {
            "cuda.version": str(torch.version.cuda),
            "cuda.driver": driver_version(),
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
