"""`generative doctor`: is everything as it should be, and if not, what to do?"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from rich.console import Console

from generative.errors import RunFailed
from generative.redact import reason, redact
from generative.replay import Store, distinct, read_runs, spooled
from generative.spool import host, is_live, spool_folder
from generative.tracking.mlflow_store import tracking_uri
from generative.workspace import main_root

_PACKAGES = ("torch", "torchvision", "dvc", "mlflow", "tensorboardX")
_ENOUGH_DISK = 2 * 10**9  # bytes: room for some hundred runs, models and pictures included


class _Problem(Exception):
    """Something needs doing; the message says what."""


def doctor() -> None:
    """Check what the pipeline stands on, a line each.

    Raises:
        RunFailed: something needs doing.
    """
    root = main_root()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    problems = 0
    for name, check in _checks(root):
        try:
            console.print(f"✓ {name}: {check()}")
        except Exception as error:
            problems += 1
            console.print(f"✗ {name}: {reason(error)}.")
    if problems:
        raise RunFailed(f"{problems} of the above need doing.")


def _checks(root: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    @cache
    def store() -> Store:
        return Store(root)

    yield "versions", lambda: _versions(root)
    yield "Git", lambda: _git(root)
    yield "device", lambda: _device(root)
    yield "data", lambda: _data(root)
    yield "tracking store", lambda: _tracking_store(root, store())
    yield "spool", lambda: _spool(root, store())
    yield "running", lambda: _running(root, store())
    yield "DVC cache", lambda: _cache(root)
    yield "DVC remote", lambda: _remote(root)
    yield "disk", lambda: _disk(root)


def _versions(root: Path) -> str:
    lock = root / "requirements.lock"
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE)
    locked = {name.lower(): pinned for name, pinned in pins}
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            raise _Problem(f"{name} is not installed; run 'make setup'") from None
        wanted = locked.get(name.lower(), found[name])
        if found[name] != wanted:
            raise _Problem(
                f"{name} is {found[name]}, requirements.lock says {wanted}; run 'make setup'"
            )
    return ", ".join([f"Python {python_version()}", *(f"{k} {v}" for k, v in found.items())])


def _git(root: Path) -> str:
    from generative.git import OutsideGit, commit_of, git

    try:
        commit = commit_of(root, "HEAD")
    except OutsideGit:
        raise _Problem(
            f"{root} is in no Git repository: no run here can be rebuilt; run 'git init' and commit"
        ) from None
    if commit is None:
        raise _Problem("the repository has no commit yet: no run here can be rebuilt; commit")
    changed = len(git(root, "status", "--porcelain").splitlines())
    return f"commit {commit[:10]}, {changed} uncommitted changes"


def _device(root: Path) -> str:
    from generative.compute import Compute, prepare
    from generative.params import PARAMS_FILE, PIPELINE_FILE, Params
    from generative.provenance import device_name

    compute = Params(root / PARAMS_FILE, root / PIPELINE_FILE).section("compute", Compute)
    device = prepare(compute)
    return f"{device.type} ({device_name(device)}), {compute.threads} threads"


def _data(root: Path) -> str:
    from generative.files import sha256
    from generative.mnist_files import DATA_DIR, Data
    from generative.params import PARAMS_FILE, PIPELINE_FILE, Params

    digests = Params(root / PARAMS_FILE, root / PIPELINE_FILE).section("data", Data).digests()
    for name, digest in digests.items():
        path = root / DATA_DIR / name
        if not path.is_file():
            raise _Problem(f"{DATA_DIR / name} is missing; run 'dvc repro download-mnist'")
        if sha256(path) != digest:
            raise _Problem(
                f"{DATA_DIR / name} has another SHA-256 than params.yaml says; delete {DATA_DIR} "
                "and run 'dvc repro download-mnist'"
            )
    return f"four files in {DATA_DIR}, SHA-256 checked"


def _tracking_store(root: Path, store: Store) -> str:
    store.write_probe()
    return redact(f"{tracking_uri(root)}: reachable and writable, {len(store.shown)} runs")


def _spool(root: Path, store: Store) -> str:
    failures: list[str] = []

    def on_failure(label: str, error: Exception) -> None:
        failures.append(f"{label}: {reason(error)}")

    runs = distinct(read_runs(spooled(root), on_failure, sealed=False), on_failure)
    if failures:
        raise _Problem(f"{failures[0]}; move that folder away")
    behind = [run for run in runs if not store.holds(run)]
    if behind:
        raise _Problem(f"MLflow lacks {len(behind)} of {len(runs)} runs; run 'generative sync'")
    size = sum(path.stat().st_size for path in spool_folder(root).rglob("*") if path.is_file())
    return f"{len(runs)} runs, {size / 1e6:.0f} MB, all in MLflow"


def _running(root: Path, store: Store) -> str:
    """What MLflow calls RUNNING must be a live process of this host, or another host's."""
    shown = store.shown
    running = {key for key, run in shown.items() if run.status == "RUNNING" and not run.deleted}
    here = {key for key in running if shown[key].host == host()}
    gone = [key for key in here if not is_live(spool_folder(root) / key)]
    if gone:
        raise _Problem(
            f"{len(gone)} are RUNNING though their process is gone; run 'generative reap'"
        )
    return f"{len(here)} on this host, {len(running - here)} on others"


def _cache(root: Path) -> str:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        folder = Path(repo.cache.local.path)
        place = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(place, os.W_OK):
            raise _Problem(f"{place} cannot be written; correct its permissions")
        outs = [out for out in repo.index.outs if out.use_cache]
        missing = [str(out) for out in outs if not out.hash_info or out.changed_cache()]
    if missing:
        raise _Problem(
            f"it lacks {len(missing)} of {len(outs)} outs ({', '.join(missing)}); "
            "run 'dvc pull' or 'dvc repro'"
        )
    return f"{folder}: writable, all {len(outs)} outs of dvc.lock are in it"


def _remote(root: Path) -> str:
    from dvc.config import NoRemoteError
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        try:
            remote = repo.cloud.get_remote_odb()
        except NoRemoteError:
            return "none: what this machine made lies on it alone ('dvc remote add' names one)"
        address = redact(remote.fs.unstrip_protocol(remote.path))
        try:
            remote.fs.info(remote.path)
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not isinstance(error.__cause__, OSError):
                return f"{address}: answers, nothing is pushed yet"
            raise _Problem(
                f"{address} does not answer ({reason(error)}); start it, or correct it with "
                "'dvc remote modify'"
            ) from None
        return f"{address}: answers"


def _disk(root: Path) -> str:
    free = shutil.disk_usage(root).free
    if free < _ENOUGH_DISK:
        raise _Problem(f"{free / 1e9:.1f} GB are free under {root}; make room")
    return f"{free / 1e9:.0f} GB free"
