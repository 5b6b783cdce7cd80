"""The run store: the record of every run that was started here, whatever became of it.

The process of a run holds the lock in its folder for as long as it lives, and notes there where it
runs: some disks have no locks, and some hide those of another machine.
"""

import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from runrecord.files import make_folder, remove_unfinished, sha256
from runrecord.record.events import EVENTS, LOCK, START, RunEnded
from runrecord.record.reader import Record, files_in, record_in
from runrecord.record.writer import RecordWriter
from runrecord.safety.text import say

STORE = ".runrecord/runs"  # where the records of all runs are, from the root
_STAMP = len("20261126-184232-89f5fe")
"""Characters of a new id that no other has: its time in UTC, and a random end."""
_LONGEST_STEM = 70
_AT_BIRTH = 60.0  # seconds that a run may take from its folder to its start
_SKEW = 60.0  # seconds that a disk's clock may be behind
EXECUTION = "RUNRECORD_EXECUTION"
"""The variable that says which execution of a stage its processes belong to."""
FOLLOWING = ".following"
"""The file in a run's folder that is locked by what shows the run, for as long as it does."""
_PLACE = ".place"  # where the process of a run notes who it is; no part of the record
_LOOKING = 60.0  # seconds that a `sync` may look at a record


def state_folder(root: Path) -> Path:
    """What is kept under the main repository's root and is no part of it: made, ignored by Git."""
    folder = root / ".runrecord"
    ignored = folder / ".gitignore"
    with suppress(OSError):  # whoever writes there will say so
        if not (ignored.exists() and ignored.stat().st_size):
            make_folder(folder)
            ignored.write_text("*\n")
    return folder


def run_dir(root: Path, run_id: str) -> Path:
    """The folder of a run's record, whether there is one or not; no id leads out of the store."""
    run_id = run_id.replace("/", "_").lstrip(".") or "_"
    return root / STORE / run_id


def run_dirs(root: Path) -> list[Path]:
    """The folders of all runs in the store, the oldest first."""
    folders = (start.parent for start in root.glob(f"{STORE}/*/{START}"))
    return sorted(folders, key=lambda folder: folder.name[-_STAMP:])


def remove_stillborn(root: Path) -> None:
    """Remove the folders of runs that died, a minute ago or more, before anything was on record."""
    for folder in (root / STORE).glob("*"):
        with suppress(OSError):
            if (folder / START).exists() or (folder / EVENTS).exists():
                continue
            if time.time() - folder.stat().st_mtime > _AT_BIRTH and not is_running(folder):
                shutil.rmtree(folder)


def remember_patch(root: Path, patch: bytes) -> None:
    """Note that code with that change was run from this repository on this machine."""
    if patch:
        note = _note_of(root, patch)
        with suppress(OSError):  # a later `verify` asks, then
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()


def was_run_here(root: Path, patch: bytes) -> bool:
    """Was code with that very change run from this repository on this machine?"""
    return _note_of(root, patch).exists()


def _note_of(root: Path, patch: bytes) -> Path:
    return state_folder(root) / "patches" / sha256(patch)


@contextmanager
def claim_run(
    root: Path, title: str, stage: str, wanted: str | None = None
) -> Iterator[tuple[Path, int]]:
    """A run's folder, its name the run's id, held until this ends; and its number.

    Resumes `wanted` if it exists and is unclaimed; otherwise creates a run, whose id begins with
    `title`: its number is which run of this execution of `stage` it is, from 1. Where the store
    cannot be written, the folder is not made: the writer will say so.
    """
    with ExitStack() as stack:
        folder, number = run_dir(root, wanted) if wanted else None, 0
        try:
            if folder:
                stack.enter_context(working_on(folder, stage))
        except Timeout:
            folder = None
        if folder is None:
            with held(state_folder(root) / "number.lock", needed=False):
                number = number_here(root, stage)
                folder = _new_folder(root, title)
                stack.enter_context(working_on(folder, stage))
        yield folder, number


def number_here(root: Path, stage: str, follows: bool = False) -> int:
    """Which run of this execution of `stage` one that begins now is, from 1.

    One that `follows` has the number of the run which rank 0 of the same job may have begun.
    """
    own, began = execution()
    begun = [
        folder
        for folder in (root / STORE).glob("*")
        if was_claimed_since(folder, began - _SKEW)
        and ((place := place_in(folder)).get("execution"), place.get("stage")) == (own, stage)
    ]
    return len(begun) + 1 - (follows and any(map(is_running, begun)))


def _new_folder(root: Path, title: str) -> Path:
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", title)[:_LONGEST_STEM].strip("-_.") or "run"
    now, chance = datetime.now(UTC), secrets.choice("0123456789abcdef")
    name = f"{stem}-{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{chance}"  # by names, the oldest first
    folder = state_folder(root) / "runs" / name
    with suppress(OSError):
        make_folder(folder)
    return folder


def close_if_dead(folder: Path, told: bool = False) -> Record | None:
    """Close the run in `folder` as KILLED if its process is gone for certain.

    `told` by a person that it is, close it unless it is known to live. Returns the record as it
    was found, if it was closed.

    Raises:
        RecordRefused: the record is damaged.
        OSError: it cannot be written.
    """
    with ExitStack() as stack:
        locks = True
        try:
            stack.enter_context(lock_of(folder).acquire(blocking=False))
        except Timeout:
            return None
        except OSError as error:
            if not _no_locks(error):
                raise
            locks = False
        record = Record(files_in(folder))
        if record.end is not None:
            return None
        alive = is_alive(place_in(folder) or {"host": record.start.host}, locks)
        if alive or (alive is None and not told):
            return None
        remove_unfinished(folder)
        message = "its process ended without a trace: SIGKILL, a crash or power loss"
        end = RunEnded(record.last_sign_of_life, "KILLED", message)
        RecordWriter(folder, record.size).write(end)
        return record


@contextmanager
def held(file: Path, needed: bool = True, **waiting: Any) -> Iterator[None]:
    """Hold the lock that is this file, once whoever has it lets go; go on without where none is.

    That is said, once for each folder. `waiting` is what `FileLock.acquire` takes.

    Raises:
        OSError: naming the file, when it is `needed` and cannot be written.
        Timeout: another process holds it for longer than is waited.
    """
    lock = FileLock(file, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(**waiting)
    except Timeout:  # an OSError as well
        raise
    except OSError as error:
        if _no_locks(error):
            _warn_no_file_locks(file.parents[2 if file.name == LOCK else 0], error.strerror)
        elif needed:
            raise
    try:
        yield
    finally:
        with suppress(OSError):  # it goes with the process
            lock.release()


def _no_locks(error: OSError) -> bool:
    """Is it the disk that refuses to lock? Else the file could not be opened, and is named."""
    return error.filename is None


@cache
def _warn_no_file_locks(folder: Path, why: str) -> None:
    """Say that nothing keeps two processes apart in a folder."""
    say(
        f"warning: the disk of {folder} has no file locks ({why}): let no two commands write there "
        "at once, or keep the repository on a disk of this machine. Of a run whose process dies, "
        "this machine alone can tell; elsewhere, run 'runrecord reap RUN' then."
    )


def lock_of(folder: Path) -> FileLock:
    """What the process of the run in `folder` holds for as long as it lives."""
    return FileLock(folder / LOCK, thread_local=False, fallback_to_soft=False)


@contextmanager
def working_on(folder: Path, stage: str = "") -> Iterator[None]:
    """Hold what this process works on, and note who it is.

    A `sync` or `reap` that only looks is waited for.

    Raises:
        Timeout: another process works on it.
    """
    elsewhere = partial(is_running, folder)
    with held(folder / LOCK, needed=False, timeout=_LOOKING, cancel_check=elsewhere):
        remove_unfinished(folder)
        with suppress(OSError):  # who asks goes by the host's name, then
            noted = here() | {"execution": execution()[0], "stage": stage}
            (folder / _PLACE).write_text(json.dumps(noted))
        yield


def is_running(folder: Path) -> bool:
    """Does a process still work on the run in `folder`, for all that can be told?"""
    locked = _is_locked(lock_of(folder)) if folder.is_dir() else False
    if locked is False:
        return False
    alive = is_alive(place_in(folder))
    if locked is None and alive is None:
        record = record_in(folder)
        return record is None or record.end is None
    return alive is not False  # a lock is held by whoever only looks, if that process is dead


def is_followed(folder: Path) -> bool:
    """Does a process show the run in `folder` while it goes on, or what is left of it after?"""
    file = folder / FOLLOWING
    return file.exists() and _is_locked(FileLock(file, fallback_to_soft=False)) is True


def _is_locked(lock: FileLock) -> bool | None:
    """Does a process hold that lock? None on a disk without locks, or one that is only read."""
    try:
        with lock.acquire(blocking=False):
            return False
    except Timeout:
        return True
    except OSError:
        return None


def was_claimed_since(folder: Path, moment: float) -> bool:
    """Was a run claimed since then, in seconds since 1970?"""
    try:
        return (folder / _PLACE).stat().st_mtime > moment
    except OSError:
        return False


def execution() -> tuple[str, float]:
    """What all processes of one execution of a stage have in common; when it began, or earlier.

    It is the `dvc` that they run under; of a run by hand, its process. `EXECUTION` says it of a
    stage that is rebuilt.
    """
    if given := os.environ.get(EXECUTION):
        return given, 0.0
    try:
        process = (dvc_above() if "DVC_STAGE" in os.environ else None) or psutil.Process()
        return f"{process.pid} {process.create_time()}", process.create_time()
    except (psutil.Error, OSError):  # /proc is not mounted
        return str(os.getpid()), time.time()


def dvc_above() -> psutil.Process | None:
    """The `dvc` that this process runs under, if it does."""
    with suppress(psutil.Error, OSError):
        for process in psutil.Process().parents():
            if any(Path(word).name == "dvc" for word in process.cmdline()[:3]):
                return process
    return None


def dvc_folder(root: Path) -> Path | None:
    """Where `dvc` was started, which DVC_STAGE's path is from; a rebuilt stage's is from `root`."""
    with suppress(psutil.Error, OSError):
        if EXECUTION in os.environ:
            return root
        return Path(process.cwd()) if (process := dvc_above()) else None
    return None


def here() -> dict[str, str]:
    """This process, and where it runs: by that, others can tell whether it is gone."""
    return {
        "host": platform.node(),
        "machine": _told(Path("/etc/machine-id").read_text),
        "boot": _told(Path("/proc/sys/kernel/random/boot_id").read_text),
        "processes": _told(lambda: os.readlink("/proc/self/ns/pid")),
        "process": str(os.getpid()),
        "began": _began(str(os.getpid())),
    }


def place_in(folder: Path) -> Mapping[str, str]:
    """What the process noted of itself that works on the run in `folder`, or did."""
    try:
        found = json.loads((folder / _PLACE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_alive(place: Mapping[str, str], free: bool = False) -> bool | None:
    """Is the process alive that noted that? None if it cannot be told for certain.

    `free`: the disk has locks, and its own is free. Within one kernel, containers and all, that is
    certain; a shared disk may hide the lock of another machine.
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
    """When a process began, as Linux counts; `psutil` goes by the clock, which may be set."""
    stat = _told(Path(f"/proc/{process}/stat").read_text) if process.isdecimal() else ""
    return (stat.rpartition(")")[2].split() or [""] * 20)[19]


def _told(read: Callable[[], str]) -> str:
    """What the system tells; empty where it does not."""
    try:
        return read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
