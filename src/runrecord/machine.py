"""What the machine does while a run goes on, sampled; named as MLflow names its system metrics."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

_INTERVAL = 10.0  # seconds
_MEGABYTE = 1e6


@contextmanager
def sampled(observe: Callable[[Mapping[str, float]], None]) -> Iterator[None]:
    """Observe the machine's load every ten seconds from a thread, and once more at the end."""
    import psutil

    psutil.cpu_percent()  # the next call tells of the time since this one
    gpus = _visible_gpus()
    ended = threading.Event()

    def sample() -> None:
        with suppress(psutil.Error, OSError):
            observe({**_cpu_and_memory(), **_load_of(gpus)})

    def sample_until_the_end() -> None:
        while not ended.wait(_INTERVAL):
            sample()

    thread = threading.Thread(target=sample_until_the_end, name="machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sample()


def _cpu_and_memory() -> dict[str, float]:
    """Of all CPUs; of the machine's memory, and of that of this process and those it began."""
    import psutil

    memory = psutil.virtual_memory()
    here = psutil.Process()
    used = 0
    for process in [here, *here.children(recursive=True)]:
        with suppress(psutil.Error):  # it has ended since
            used += process.memory_info().rss
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / _MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_usage_megabytes": used / _MEGABYTE,
    }


def _visible_gpus() -> dict[int, Any]:
    """NVML's handle of each GPU that `CUDA_VISIBLE_DEVICES` leaves this process, by its index."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        found = dict(enumerate(handles))
        names = {index: pynvml.nvmlDeviceGetUUID(handle) for index, handle in found.items()}
    except pynvml.NVMLError:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    wanted = [name.strip() for name in visible.split(",") if name.strip()]
    return {
        index: handle
        for index, handle in found.items()
        if any(one == str(index) or names[index].startswith(one) for one in wanted)
    }


def _load_of(gpus: Mapping[int, Any]) -> dict[str, float]:
    import pynvml

    values: dict[str, float] = {}
    for index, gpu in gpus.items():
        with suppress(pynvml.NVMLError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            values |= {
                f"gpu_{index}_utilization_percentage": pynvml.nvmlDeviceGetUtilizationRates(
                    gpu
                ).gpu,
                f"gpu_{index}_memory_usage_megabytes": memory.used / _MEGABYTE,
                f"gpu_{index}_memory_usage_percentage": 100 * memory.used / memory.total,
            }
    return values
