"""Where the process is that works on a run, and whether it is alive, for all that can be told."""

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

EXECUTION = "RUNRECORD_EXECUTION"
"""The variable that says which execution of a stage its processes belong to."""
PLACE = ".place"
"""The file in a run's folder where its process notes who it is; no part of the record."""


def was_claimed_since(folder: Path, moment: float) -> bool:
    """Was a run claimed since then, in seconds since 1970?"""
    try:
        return (folder / PLACE).stat().st_mtime > moment
    except OSError:
        return False


def process_began() -> float:
    """When this process began, in seconds since 1970."""
    import psutil

    return float(psutil.Process().create_time())


def execution() -> tuple[str, float]:
    """What all processes of one execution of a stage have in common; when it began, or earlier.

    It is the `dvc` that they run under; of a run by hand, its process. `EXECUTION` says it of a
    stage that is rebuilt.
    """
    if given := os.environ.get(EXECUTION):
        return given, 0.0
    process = dvc_above() if "DVC_STAGE" in os.environ else None
    if process is None:
        return f"{os.getpid()} {process_began()}", process_began()
    return f"{process.pid} {process.create_time()}", process.create_time()


def dvc_above() -> "psutil.Process | None":
    """The `dvc` that this process runs under, if it does."""
    import psutil

    with suppress(psutil.Error, OSError):
        for process in psutil.Process().parents():
            if any(Path(word).name == "dvc" for word in process.cmdline()[:3]):
                return process
    return None


def here() -> dict[str, str]:
    """This process, and where it runs: by that, others can tell whether it is gone."""
    return {
        "host": platform.node(),
        "machine": _read("/etc/machine-id"),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "processes": _namespace(),
        "process": str(os.getpid()),
        "began": _began(str(os.getpid())),
    }


def place_in(folder: Path) -> Mapping[str, str]:
    """What the process noted of itself that works on the run in `folder`, or did."""
    try:
        found = json.loads((folder / PLACE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_alive(place: Mapping[str, str], free: bool = False) -> bool | None:
    """Is the process alive that noted that? None if it cannot be told for certain.

    Args:
        place: what it noted.
        free: the disk has locks, and its own is free. Within one kernel, containers and all, that
            is certain. A shared disk may hide the lock of another machine.
    """
    own = here()

    def same(*names: str) -> bool:
        return all(own[name] and place.get(name) == own[name] for name in names)

    if same("boot"):
        if free:
            return False
        if not same("processes"):
            return None
        began = _began(place.get("process", ""))
        return bool(began) and began == place.get("began")
    if same("host", "machine"):  # it was started anew since
        return False
    others = place.get("machine") and own["machine"]
    return False if free and same("host") and not others else None


def _began(process: str) -> str:
    """When a process began, as Linux counts; empty if there is none."""
    stat = _read(f"/proc/{process}/stat") if process.isdecimal() else ""
    return (stat.rpartition(")")[2].split() or [""] * 20)[19]


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
