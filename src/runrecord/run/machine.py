"""What the machine does while a run goes on, sampled; named as MLflow names its system metrics."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from runrecord.run.tracker import FOLLOWER

_INTERVAL = 10.0  # seconds
_PATIENCE = 5.0  # seconds that a run waits for a sample at most: a GPU may not answer
_MEGABYTE = 1e6


@contextmanager
def sampled(observe: Callable[[Mapping[str, float]], None]) -> Iterator[None]:
    """Observe the machine's load every ten seconds and at the end, from a thread of its own.

    No run depends on it: what cannot be sampled is left out, whatever the reason.
    """
    ready, ended = threading.Event(), threading.Event()

    def sample_until_the_end() -> None:
        with suppress(Exception):
            _cpu_and_memory()  # of CPUs, a thread's next call tells of the time since this one
        ready.set()
        gpus = _visible_gpus()
        over = False
        while not over:
            over = ended.wait(_INTERVAL)
            with suppress(Exception):
                observe({**_cpu_and_memory(), **_load_of(gpus)})

    thread = threading.Thread(target=sample_until_the_end, name="machine", daemon=True)
    with suppress(RuntimeError):  # the machine allows no thread more
        thread.start()
        ready.wait(_PATIENCE)  # the imports take 30 ms: a short run would be over by then
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join(_PATIENCE)


def _cpu_and_memory() -> dict[str, float]:
    """Of all CPUs; of the machine's memory, and of that of this process and those it began.

    What shows the run is none of its own.
    """
    import psutil

    memory = psutil.virtual_memory()
    here = psutil.Process()
    used = 0
    for process in [here, *here.children(recursive=True)]:
        with suppress(psutil.Error):  # it has ended since
            if FOLLOWER not in process.cmdline():
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

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = [name.strip() for name in (visible or "").split(",") if name.strip()]
    found: dict[int, Any] = {}
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            with suppress(pynvml.NVMLError):  # this one is lost, or not ours
                gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = pynvml.nvmlDeviceGetUUID(gpu)
                if visible is None or any(
                    name == str(index) or uuid.startswith(name) for name in wanted
                ):
                    found[index] = gpu
    return found


def _load_of(gpus: Mapping[int, Any]) -> dict[str, float]:
    """What each GPU tells of its load and its memory: some tell but one of them."""
    import pynvml

    values: dict[str, float] = {}
    for index, gpu in gpus.items():
        with suppress(pynvml.NVMLError):
            load = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
            values[f"gpu_{index}_utilization_percentage"] = load
        with suppress(pynvml.NVMLError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            values[f"gpu_{index}_memory_usage_megabytes"] = memory.used / _MEGABYTE
            values[f"gpu_{index}_memory_usage_percentage"] = 100 * memory.used / memory.total
    return values
