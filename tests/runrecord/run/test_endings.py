"""How a stage's end is kept: from signals, a lost console, edits in mid-run, faults of disks."""

import asyncio
import errno
import json
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from workspaces import new_project, wait_until

import runrecord.run.start
from records import new_run, status_of
from runrecord.dvc.stages import find_stage
from runrecord.record.reader import Record, files_in
from runrecord.record.writer import RecordWriter
from runrecord.resume.checkpoints import Arrays, Checkpoints
from runrecord.run.process import run_stage
from runrecord.store.runs import is_followed, run_dir, run_dirs


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def small(here: Path) -> Path:
    """A small DVC repository, which this process works in, and those that it begins."""
    find_stage(here, "train", here)  # what that imports, no process that is begun here has to
    return here


def forked(
    work: Callable[[], None],
    console: Callable[[], object] = lambda: None,
    as_stage: bool = True,
) -> int:
    """A process that does that, and has imported all it needs; what it prints is in `said`.

    Args:
        work: the stage, or the script.
        console: what becomes of its console before it begins.
        as_stage: it is a stage.
    """
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    process = os.fork()
    if process:
        os.close(said)
        return process
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        console()
        if as_stage:
            run_stage(work)
        work()
    except SystemExit as stop:
        os._exit(int(str(stop.code)))
    except BaseException:
        os.write(said, traceback.format_exc().encode())
        os._exit(99)
    os._exit(0)


def status_and_output(process: int) -> tuple[int, str]:
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), Path("said").read_text(errors="replace")


class One:
    """What a training changes that changes nothing."""

    def state_dict(self) -> Arrays:
        return {"one": np.ones(1)}

    def load_state_dict(self, arrays: Arrays) -> None:
        assert arrays["one"] == 1


def train(in_epoch_2: Callable[[], object] = lambda: None) -> None:
    """A training that says much."""
    print("before the run")
    with runrecord.run.start.start_run("train", length="lr") as run:
        for epoch in run.epochs(3, One()):
            print(f"epoch {epoch}")
            print(f"of 3: {epoch}", file=sys.stderr)
            run.log({"loss": 1.0})
            if epoch == 2:
                in_epoch_2()
        Path("model.bin").write_bytes(b"model")


def assert_finished(folder: Path) -> None:
    assert status_of(folder / "records/train") == "FINISHED"
    assert (folder / "model.bin").read_bytes() == b"model"


def close_all() -> None:
    """As a shell's `>&-`: the process begins without them, and Python says None."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.close(number)
        setattr(sys, name, None)


def become(console: int, other_end: int | None = None) -> None:
    """Print to that, whose other end closes while there is something to be written."""
    for number in (1, 2) if other_end else (1,):
        os.dup2(console, number)
    print("it is kept back for a while", end="")
    os.close(console)
    if other_end:
        os.close(other_end)


# The ways in which a console goes, or was never there.
CONSOLES: dict[str, Callable[[], object]] = {
    "none at all": close_all,
    "stdout full": lambda: become(os.open("/dev/full", os.O_WRONLY)),
    "both unread": lambda: become(*os.pipe()[::-1]),
    "terminal closed": lambda: become(*os.openpty()[::-1]),
    "another thing for stdout": lambda: setattr(
        sys, "stdout", SimpleNamespace(write=len, flush=lambda: None)
    ),
}


OF_SCRIPTS = ("both unread", "none at all")


@pytest.mark.parametrize(
    ("name", "as_stage"),
    [*((name, True) for name in CONSOLES), *((name, False) for name in OF_SCRIPTS)],
)
def test_a_training_does_not_depend_on_its_console(name: str, as_stage: bool, small: Path) -> None:
    """Nor does a script that has printed before its run."""
    status, said = status_and_output(forked(train, CONSOLES[name], as_stage))
    assert status == 0, said
    assert_finished(small)


@pytest.mark.parametrize("make", [os.pipe, os.openpty], ids=["pipe", "terminal"])
def test_a_console_that_closes_kills_a_run_that_can_be_resumed(
    make: Callable[[], tuple[int, int]], small: Path
) -> None:
    (ours, its), (ready, told), (closed, close_told) = make(), os.pipe(), os.pipe()

    def console() -> None:
        os.close(ours)
        for number in (1, 2):
            os.dup2(its, number)
        os.close(its)

    def in_epoch_2() -> None:
        os.write(told, b"!")
        os.read(closed, 1)
        print("nobody hears that", flush=True)

    process = forked(lambda: train(in_epoch_2), console)
    os.close(its)
    assert os.read(ready, 1) == b"!"
    os.close(ours)
    os.write(close_told, b"!")
    status, _ = status_and_output(process)
    assert status == 128 + signal.SIGPIPE
    (folder,) = run_dirs(small)
    assert status_of(folder) == "KILLED"
    status, said = status_and_output(forked(train))
    assert status == 0, said
    assert f"resuming {folder.name} after epoch 1" in said
    assert_finished(small)


def train_in_a_task(number: int) -> None:
    """Asyncio cancels its tasks, and tells them no more than that."""

    async def work() -> None:
        with runrecord.run.start.start_run("train") as run:
            run.log({"loss": 1.0})
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
            await asyncio.Event().wait()

    asyncio.run(work())


def train_and_exit(number: int) -> None:
    """As Lightning does, which ends a training in its own way, with status 1."""
    with runrecord.run.start.start_run("train"):
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        except BaseException:
            sys.exit(1)


def train_in_a_group(number: int) -> None:
    """As trio and `asyncio.TaskGroup` raise what several tasks did."""
    with runrecord.run.start.start_run("train"):
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        except BaseException as stop:
            raise BaseExceptionGroup("tasks", [ValueError("a task"), stop]) from None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("train", [train_in_a_task, train_and_exit, train_in_a_group])
def test_a_signal_kills_a_run_whatever_its_script_makes_of_it(
    train: Callable[[int], None], number: int, small: Path
) -> None:
    _, said = status_and_output(forked(lambda: train(number), as_stage=False))
    (folder,) = run_dirs(small)
    assert status_of(folder) == "KILLED", said


def test_a_script_that_exits_for_an_error_of_its_own_has_failed(small: Path) -> None:
    def train() -> None:
        with runrecord.run.start.start_run("train"):
            try:
                raise ValueError("no data")
            except ValueError:
                sys.exit(1)

    status, _ = status_and_output(forked(train, as_stage=False))
    (folder,) = run_dirs(small)
    assert (status, status_of(folder)) == (1, "FAILED")


@pytest.fixture
def hanging(here: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """MLflow never answers."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server)
    monkeypatch.setenv("RUNRECORD_SINKS", "on")


# Signals that follow each other, and the status they leave; in an epoch, and once all is sealed.
TWICE = {
    "SIGHUP": (signal.SIGHUP, signal.SIGHUP, 129),
    "SIGTERM, SIGINT": (signal.SIGTERM, signal.SIGINT, 143),
}


@pytest.mark.usefixtures("hanging")
@pytest.mark.parametrize(("first", "second", "status"), TWICE.values(), ids=TWICE)
def test_a_second_signal_ends_the_waiting_and_costs_no_status(
    first: signal.Signals, second: signal.Signals, status: int, small: Path
) -> None:
    """Of a stage and of a script, by turns."""
    as_stage = first == second
    ready, told = os.pipe()

    def work() -> None:
        train(lambda: (os.write(told, b"!"), threading.Event().wait(60)))

    process = forked(work, as_stage=as_stage)
    assert os.read(ready, 1) == b"!"
    (folder,) = run_dirs(small)
    os.kill(process, first)
    wait_until(lambda: Record(files_in(folder)).end is not None)
    os.kill(process, second)
    found, said = status_and_output(process)
    assert (found, status_of(folder)) == (status, "KILLED"), said
    assert "not waited for" in said
    assert "Traceback" not in said


@pytest.mark.usefixtures("hanging")
def test_signals_after_the_seal_end_the_waiting_alone(small: Path) -> None:
    process = forked(train)
    wait_until(lambda: (small / "records/train").exists())
    os.kill(process, signal.SIGTERM)
    os.kill(process, signal.SIGINT)
    status, said = status_and_output(process)
    assert status == 0, said
    assert "not waited for" in said
    assert_finished(small)
    (folder,) = run_dirs(small)
    assert status_of(folder) == "FINISHED"


def no_call_works() -> None:
    """From here on, no file or folder can be opened, made, renamed or removed."""
    names = ("open", "os.", "shutil.", "pathlib.", "glob.", "fcntl.")

    def refuse(event: str, _arguments: object) -> None:
        if event.startswith(names) and threading.current_thread() is threading.main_thread():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), event)

    sys.addaudithook(refuse)


def limit(kind: int, count: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (count, hard))


# What happens to the house once the result is sealed.
HOUSES: dict[str, Callable[[], object]] = {
    "no run store": lambda: shutil.rmtree(".runrecord"),
    "records that are none": lambda: (
        [path.write_bytes(b"\xff{") for path in Path(".runrecord/runs").glob("old-*/*.json*")]
    ),
    "no file may grow": lambda: limit(resource.RLIMIT_FSIZE, 0),
    "no file can be opened": lambda: limit(resource.RLIMIT_NOFILE, 0),
    "no call works": no_call_works,
}


def after_the_seal(fault: Callable[[], object]) -> int:
    """A training to which that happens once its result is sealed."""

    def work() -> None:
        seal = RecordWriter.seal

        def sealed(*arguments: object, **more: object) -> None:
            seal(*arguments, **more)  # type: ignore[arg-type]
            fault()

        RecordWriter.seal = sealed  # type: ignore[method-assign]
        train()

    return forked(work)


@pytest.mark.parametrize("fault", HOUSES.values(), ids=HOUSES)
def test_house_keeping_never_ends_a_run(fault: Callable[[], object], small: Path) -> None:
    for number in range(7):
        name = f"old-{number}"
        new_run(run_dir(small, name), id=name)
        Checkpoints(small, {"params": {"lr": number}}).save(name, 1, 1, {"one": np.ones(1)}, 0, {})
    status, said = status_and_output(after_the_seal(fault))
    assert status == 0, said
    assert "Traceback" not in said
    assert_finished(small)


def test_a_secret_param_that_changes_is_told_nowhere(tmp_path: Path) -> None:
    script = """
import pathlib, runrecord
with runrecord.start_run() as run:
    run.log({"a": 1.0})
    if pathlib.Path("edit").exists():
        pathlib.Path("params.yaml").write_text("db: {password: batterystaple}")
"""
    stage = {"cmd": "python t.py", "deps": ["t.py"], "params": ["db"], "outs": ["records/train"]}
    files = {"t.py": script, "dvc.yaml": json.dumps({"stages": {"train": stage}})}
    workspace = new_project(tmp_path / "p", {**files, "params.yaml": "db:\n  password: first\n"})
    (workspace.path / "params.yaml").write_text("db:\n  password: correcthorse\n")
    said = workspace.run("dvc", "repro", RUNRECORD_SINKS="off")
    assert "params.yaml holds a password or a token" in said
    (workspace.path / "edit").touch()
    said += workspace.run("dvc", "repro", "--force", status=255, RUNRECORD_SINKS="off")
    assert 'db.password (was "***", is "***") changed while train ran' in said
    state = workspace.path / ".runrecord"
    kept = [path for path in state.rglob("*") if path.is_file()]
    told = said.encode() + b"".join(bytes(path) + path.read_bytes() for path in kept)
    assert b"correcthorse" not in told
    assert b"batterystaple" not in told


def test_params_edited_in_mid_run_are_never_recorded_as_run(small: Path) -> None:
    params = small / "params.yaml"
    edited = "lr: 4\nother: 1\n"  # the other is none of its own
    status, said = status_and_output(forked(lambda: train(lambda: params.write_text(edited))))
    assert status == 1, said
    assert "error: lr (was 1, is 4) changed while train ran" in said
    assert not (small / "records/train").exists()
    (folder,) = run_dirs(small)
    end = Record(files_in(folder)).end
    assert end is not None
    assert (end.status, end.changed) == ("FAILED", ("lr (was 1, is 4)",))
    params.write_text("lr: 1\n")
    status, said = status_and_output(forked(train))
    assert status == 0, said
    assert f"resuming {folder.name} after epoch 3" in said
    assert_finished(small)
    assert status_of(folder) == "FINISHED"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_later_run_of_a_stage_as_it_would_the_first(
    sent: signal.Signals, small: Path
) -> None:
    ready, told = os.pipe()

    def work() -> None:
        train()
        train(lambda: (os.write(told, b"!"), threading.Event().wait(60)))

    process = forked(work)
    assert os.read(ready, 1) == b"!"
    os.kill(process, sent)
    status, said = status_and_output(process)
    assert status == 128 + sent, said
    assert sorted(map(status_of, run_dirs(small))) == ["FINISHED", "KILLED"]


def test_a_run_that_is_killed_once_it_is_sealed_stays_finished(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNRECORD_SINKS", "on")
    status, _ = status_and_output(after_the_seal(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert status == -signal.SIGKILL
    (folder,) = run_dirs(small)
    wait_until(lambda: not is_followed(folder))
    assert Record(files_in(folder)).end is None, "sync closes it by its sealed record"
    assert_finished(small)
