"""Whether a run's process is gone: on this machine, in containers, on disks without locks."""

import errno
import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from workspaces import wait_until

from records import end_run, new_run, status_of
from runrecord.cli.upkeep import reap
from runrecord.errors import UserError
from runrecord.resume.checkpoints import Checkpoints
from runrecord.store.runs import (
    claim_run,
    close_if_dead,
    here,
    is_alive,
    is_running,
    lock_of,
    run_dir,
    run_dirs,
    working_on,
)
from runrecord.verify.rebuild import scratch

GONE = str(2**22 + 1)  # no process can have that number
HERE = here()

# Where a process said it was; is its lock, on a disk that has them, known to be free; is it alive?
PLACES: dict[str, tuple[Mapping[str, str], bool, bool | None]] = {
    "this process": (HERE, False, True),
    "this process, its lock free": (HERE, True, False),
    "its number is another's by now": (HERE | {"began": "1"}, False, False),
    "it is gone": (HERE | {"process": GONE}, False, False),
    "another container, lock free": (
        HERE | {"host": "0a1b2c", "processes": "pid:[1]", "machine": ""},
        True,
        False,
    ),
    "another container, no locks": (HERE | {"host": "0a1b2c", "processes": "pid:[1]"}, False, None),
    "before this machine was started anew": (HERE | {"boot": "x"}, False, False),
    "the same, and no machine id": (HERE | {"boot": "x", "machine": ""}, True, False),
    "another machine of that name": (HERE | {"boot": "x", "machine": "y"}, True, None),
    "a container of before, same image": (HERE | {"boot": "x", "host": "0a1b2c"}, True, None),
    "nothing but the host's name, here": ({"host": HERE["host"]}, True, False),
    "nothing is known": ({}, False, None),
}


@pytest.mark.parametrize(("place", "free", "alive"), PLACES.values(), ids=PLACES)
def test_whether_a_process_is_alive_is_said_where_it_is_certain(
    place: Mapping[str, str], free: bool, alive: bool | None
) -> None:
    assert is_alive(place, free) is alive


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a repository without a store of MLflow's, which this process works in."""
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("runrecord.cli.upkeep.sync", lambda: None)
    return tmp_path


def left_behind(root: Path, name: str, **place: str) -> Path:
    """A run that has not ended, of a process that was there."""
    folder = run_dir(root, name)
    new_run(folder, id=name, host=place.get("host", platform.node()))
    (folder / ".place").write_text(json.dumps(HERE | {"process": GONE} | place))
    return folder


def test_reap_closes_what_is_certain_and_names_the_rest(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = left_behind(root, "here")
    container = left_behind(root, "container", host="0a1b2c", processes="pid:[1]")
    there = [
        left_behind(root, f"there-{n}", host="node-7", boot="x", machine="y") for n in range(2)
    ]
    other = left_behind(root, "other", host="node-8", boot="x", machine="y")
    reap()
    said = capsys.readouterr().out
    assert [status_of(folder) for folder in (here, container)] == ["KILLED", "KILLED"]
    assert [status_of(folder) for folder in (*there, other)] == ["RUNNING"] * 3
    assert "there-0: its process on node-7 may be gone, which cannot be told from here" in said
    assert "'runrecord reap there-0', or 'runrecord reap --host node-7' for all" in said
    reap(host="node-7")
    assert [status_of(folder) for folder in (*there, other)] == ["KILLED", "KILLED", "RUNNING"]
    reap(["other"])
    assert status_of(other) == "KILLED"
    with pytest.raises(UserError, match="no-such: no such run is in the run store"):
        reap(["no-such"])


def test_a_run_that_a_process_holds_is_closed_by_no_word(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = left_behind(root, "held", host="node-7", boot="x", machine="y")
    with lock_of(folder).acquire():
        reap(["held"], "node-7")
        assert status_of(folder) == "RUNNING"
        assert "held: a process works on it; it is left alone." in capsys.readouterr().out


CONTAINER = ("unshare", "--uts", "--pid", "--fork", "--kill-child")
IN_CONTAINER = """
import platform, sys, time
from pathlib import Path
from runrecord.record.events import RunStarted
from runrecord.record.writer import RecordWriter
from runrecord.store.runs import claim_run, close_if_dead, run_dirs
root = Path(sys.argv[1])
if runs := run_dirs(root):
    assert platform.node() == "box-2"
    assert close_if_dead(runs[0]).start.host == "box-1"
else:
    with claim_run(root, "train", "train") as (folder, _):
        RecordWriter(folder).write(RunStarted(folder.name, "train", 1, platform.node(), {}, {}))
        time.sleep(600)
"""


@pytest.mark.needs("namespaces")
def test_a_run_of_a_killed_container_is_closed_by_the_next(root: Path) -> None:
    def container(name: str) -> "subprocess.Popen[bytes]":
        inside = ["sh", "-c", f'hostname {name} && exec "$@"', "sh"]
        return subprocess.Popen(
            [*CONTAINER, *inside, sys.executable, "-c", IN_CONTAINER, str(root)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    with container("box-1") as first:
        try:
            wait_until(lambda: bool(run_dirs(root)))
            (folder,) = run_dirs(root)
            assert is_running(folder)
            assert close_if_dead(folder, told=True) is None
        finally:
            first.kill()
    wait_until(lambda: not is_running(folder))
    assert status_of(folder) == "RUNNING"
    with container("box-2") as second:
        assert second.wait() == 0
    assert status_of(folder) == "KILLED"


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a disk answers that has no file locks."""

    def flock(_file: int, _operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_on_a_disk_without_locks_a_run_goes_on_and_none_is_closed_that_may_live(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claim_run(tmp_path, "train", "train") as (folder, _):
        new_run(folder, id=folder.name, host=platform.node())
        assert is_running(folder)
        assert close_if_dead(folder) is None
        assert close_if_dead(folder, told=True) is None, "it lives, whatever a person says"
        end_run(folder)
        assert is_running(folder), "it may still show its end"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"warning: the disk of {tmp_path}/.runrecord has no file locks" in said
    assert "'runrecord reap RUN'" in said

    dead = left_behind(tmp_path, "dead")
    assert not is_running(dead)
    assert close_if_dead(dead) is not None
    for place in ({"processes": "pid:[1]"}, {"boot": "x", "machine": "y", "host": "node-7"}):
        unknown = left_behind(tmp_path, f"unknown-{len(place)}", **place)
        assert is_running(unknown)
        assert close_if_dead(unknown) is None
        assert close_if_dead(unknown, told=True) is not None
        assert not is_running(unknown)
    old = left_behind(tmp_path, "old")
    (old / ".place").unlink()
    assert is_running(old)
    assert close_if_dead(old) is None


@pytest.mark.usefixtures("no_locks")
def test_on_a_disk_without_locks_a_run_is_gone_on_with_once_it_is_known_to_be_gone(
    tmp_path: Path,
) -> None:
    kept = Checkpoints(tmp_path, {})
    dead, unknown = left_behind(tmp_path, "dead"), left_behind(tmp_path, "unknown", processes="x")
    kept.save("unknown", 2, 1, {"one": np.ones(1)}, 0, {})
    assert kept.latest() is None
    assert "if it does not, run 'runrecord reap unknown'" in kept.why_anew()
    kept.save("dead", 1, 1, {"one": np.ones(1)}, 0, {})
    found = kept.latest()
    assert found is not None
    assert found.saved.run_id == dead.name
    close_if_dead(unknown, told=True)
    found = kept.latest()
    assert found is not None
    assert found.saved.run_id == unknown.name


@pytest.mark.usefixtures("no_locks")
def test_verify_works_on_a_disk_without_locks(tmp_path: Path) -> None:
    left = tmp_path / ".runrecord" / "verify" / "left"
    left.mkdir(parents=True)
    (left / ".place").write_text(json.dumps(HERE | {"process": GONE}))
    other = left.with_name("other")
    other.mkdir()
    (other / ".place").write_text(json.dumps(HERE))  # of a process that lives
    with scratch(tmp_path) as folder:
        assert folder.is_dir()
        assert other.is_dir()
        assert not left.exists()
    assert not folder.exists()


def test_a_folder_that_is_held_is_nobody_elses(tmp_path: Path) -> None:
    with working_on(tmp_path):
        assert is_running(tmp_path)
    assert not is_running(tmp_path)
    assert (tmp_path / ".place").stat().st_size


def test_runs_of_one_second_are_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    begun = []
    for title in "fedcba":
        with claim_run(tmp_path, title, "train") as (folder, _):
            new_run(folder)
            begun.append(folder)
    assert run_dirs(tmp_path) == begun
