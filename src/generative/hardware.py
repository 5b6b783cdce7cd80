"""What the hardware is called, for people and tags: decides no result."""

import platform
import sys
from pathlib import Path

import torch


def driver_version() -> str:
    """The version of NVIDIA's driver, as NVML says; empty where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ""
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def needed_driver() -> str:
    """The driver that the installed PyTorch needs for a GPU, as NVIDIA's release notes say."""
    cuda = str(torch.version.cuda or "").partition(".")[0]
    oldest = {"11": "450", "12": "525", "13": "580"}.get(cuda)
    return f"{oldest} or newer" if oldest else "one for a PyTorch with CUDA"


def warn_of_unusable_gpu() -> None:
    """Say that there is a GPU, and a driver too old for this PyTorch, where that is so."""
    if driver := driver_version():
        print(
            f"warning: training on the CPU: there is an NVIDIA GPU that PyTorch cannot use "
            f"(driver {driver}, needed is {needed_driver()}); install that, or let "
            "compute.device be cpu in params.yaml.",
            file=sys.stderr,
        )


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
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else ""
