"""What DVC allows in a pipeline, on the engine: run for real, rebuilt for real."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from workspaces import PATIENCE, RECORD_ONLY, Workspace, new_project, read_until, wait_until

from runrecord.record.events import RunEnded
from runrecord.record.reader import Record, files_in
from runrecord.store.runs import run_dirs

PIPELINE = """
vars:
- word: hello
stages:
  Shell:
    cmd:
    - runrecord exec -- sh -c 'echo ${word} > out.txt; echo said'
    - runrecord exec -- sh -c 'cat out.txt > copy.txt; echo warned >&2'
    params: [n, 손실, nothing]
    outs: [out.txt, copy.txt]
  train:
    foreach: [a, b]
    do:
      wdir: sub
      cmd: python script.py ${item}
      deps: [script.py]
      params:
      - ../other.json:
        - k.a
      outs: ["r_${item}.txt"]
  grid:
    matrix: {x: [1, 2]}
    cmd: runrecord exec -- sh -c 'echo ${item.x} > g${item.x}'
    outs: ["g${item.x}"]
  lines:
    wdir: sub
    cmd: |
      echo begin
      runrecord exec -- sh -c 'echo lines > "../odd name.txt"'
    deps: [/etc/hostname]
    outs: [{"../odd name.txt": {persist: true}}]
"""
BELOW = """
stages:
  below:
    cmd: runrecord exec -- sh -c 'cat script.py > made.txt'
    deps: [script.py]
    outs: [made.txt]
"""
PARAMS = """
n: 3
손실: {이름: [1, null], 값: 0.5}
nothing: null
"""
STOPS = ("TERM", "SEGV")
ONE = {"dvc.yaml": "stages: {one: {cmd: 'true', outs: [x]}}"}
SCRIPT = """
import sys
import numpy as np
import runrecord

with runrecord.start_run() as run:
    for epoch in run.epochs(2):
        run.log({"손실/%값": 1 / epoch, "none": float("nan")})
    run.image("그림 ✓", np.zeros((4, 4), np.uint8))
    with open(f"r_{sys.argv[1]}.txt", "w") as file:
        file.write(str(run.params["../other.json:k.a"]))
"""


pytestmark = pytest.mark.workspace


def records(workspace: Workspace) -> list[Record]:
    found = [Record(files_in(folder)) for folder in run_dirs(workspace.path)]
    return sorted(found, key=lambda record: (record.start.stage, record.start.time))


def only(workspace: Workspace) -> tuple[Record, RunEnded]:
    """The one record, and how it ended."""
    (record,) = records(workspace)
    assert record.end is not None
    return record, record.end


def printed(record: Record) -> bytes:
    """What is kept of what its program printed."""
    assert record.end is not None
    assert record.end.output is not None
    return record.read(record.end.output.name)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = new_project(
        tmp_path_factory.mktemp("forms") / "project",
        {
            "dvc.yaml": PIPELINE,
            "params.yaml": PARAMS,
            "other.json": '{"k": {"a": 7}}',
            "sub/script.py": SCRIPT,
            "sub/dvc.yaml": BELOW,
        },
    )
    workspace.run("dvc", "repro", "--all-pipelines", RUNRECORD_SINKS="off")
    return workspace


def test_each_command_of_each_stage_leaves_a_record(project: Workspace) -> None:
    found = records(project)
    assert [record.start.stage for record in found] == [
        *("Shell", "Shell", "grid@1", "grid@2", "lines", "sub/dvc.yaml:below"),
        *("train@a", "train@b"),
    ]
    assert {record.end and record.end.status for record in found} == {"FINISHED"}
    outs = [{*record.end.outs} for record in found if record.end]
    shell, again, *_, train, _ = found
    assert shell.start.params == {"n": 3, "손실.이름": [1, None], "손실.값": 0.5, "nothing": None}
    assert shell.start.command[0] == "runrecord"
    assert "hello" in shell.start.command[-1]
    assert train.start.params == {"../other.json:k.a": 7}
    assert train.start.deps.keys() == {"sub/script.py"}
    assert outs[:2] == [{"out.txt"}, {"out.txt", "copy.txt"}], "the other is not there yet"
    assert outs[3:7] == [{"g2"}, {"odd name.txt"}, {"sub/made.txt"}, {"sub/r_a.txt"}]
    assert (printed(shell), printed(again)) == (b"said\n", b"warned\n")


@pytest.mark.slow
def test_one_of_each_kind_is_rebuilt_bit_for_bit(project: Workspace) -> None:
    kinds = {record.start.stage.partition("@")[0]: record for record in records(project)}
    assert {*kinds} == {"Shell", "grid", "lines", "sub/dvc.yaml:below", "train"}
    for record in kinds.values():
        said = project.run("runrecord", "verify", record.start.id)
        assert "Verdict: bit-identical" in said, record.start.stage


EXEC = ("runrecord", "exec", "--", "sh", "-c")
BY_HAND = {"DVC_STAGE": "one", **RECORD_ONLY}


@pytest.fixture
def one(tmp_path: Path) -> Workspace:
    """A project of one stage, which is run by hand."""
    return new_project(tmp_path / "project", ONE)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("exit 3", 3),
        *((f"kill -{name} $$", 128 + signal.Signals[f"SIG{name}"]) for name in STOPS),
    ],
    ids=["exit", *STOPS],
)
def test_a_program_that_a_signal_ends_ends_as_a_shell_says_it(
    one: Workspace, command: str, status: int
) -> None:
    environment = BY_HAND | {"SECRET_TOKEN": "swordfish"}
    one.run(*EXEC, f"echo $SECRET_TOKEN; {command}", status=status, environment=environment)
    record, end = only(one)
    assert (end.status, end.message) == ("FAILED", f"ProgramFailed: exit status {status}")
    assert printed(record) == b"***\n"


def is_alive(number: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(number).status() != psutil.STATUS_ZOMBIE)
    return False


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_exec_ends_its_program(sent: signal.Signals, one: Workspace) -> None:
    with one.start(*EXEC, "echo it runs as; echo $$; exec sleep 200", **BY_HAND) as process:
        assert process.stdout is not None
        read_until(process.stdout, "it runs as")
        number = int(process.stdout.readline())
        process.send_signal(sent)
        process.stdout.read()
    assert process.returncode == 128 + sent
    wait_until(lambda: not is_alive(number))
    assert only(one)[1].status == "KILLED"


def test_exec_without_a_program_or_a_stage_is_one_sentence(one: Workspace) -> None:
    said = one.run("runrecord", "exec", "--", "no-such-program", status=2)
    assert "DVC_STAGE is not set" in said
    said = one.run("runrecord", "exec", "--", "no-such-program", status=2, DVC_STAGE="one")
    assert said.splitlines()[-1] == "error: no-such-program: No such file or directory."
    assert "Traceback" not in said
    assert "no command is given" in one.run("runrecord", "exec", status=2)


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_console_that_is_closed_costs_nothing_of_what_the_program_prints(
    one: Workspace, closed: str
) -> None:
    command = [*EXEC, "seq 20000; seq 20000 >&2"]  # more than a pipe holds
    subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *command],
        cwd=one.path,
        env=one.environment | BY_HAND,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert printed(only(one)[0]).count(b"\n20000\n") == 2


def test_progress_without_a_line_end_is_seen_at_once(one: Workspace) -> None:
    """The program waits until it was; Python holds its output back unless it is told not to."""
    program = ("python", "-c", r"print('\r50%', end=''); exit(int(open('go').read()))")
    os.mkfifo(one.path / "go")
    with one.start("runrecord", "exec", "--", *program, **BY_HAND) as process:
        assert process.stdout is not None
        seen = ""
        while not seen.endswith("50%"):
            seen += process.stdout.read(1)
        (one.path / "go").write_text("7\n")
    assert process.returncode == 7


MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_output_without_line_ends_takes_no_memory(one: Workspace) -> None:
    program = ("runrecord", "exec", "--", "head", "-c", "300M", "/dev/zero")
    said = one.run("python", "-c", MEASURED, *program, environment=BY_HAND)
    assert int(said.split()[-1]) < 250_000, "KiB"
    assert only(one)[1].output is not None


def test_a_program_ends_when_it_ends_and_not_with_what_it_leaves_running(one: Workspace) -> None:
    said = one.run(*EXEC, "sleep 250 & echo $!; seq 20000", environment=BY_HAND)
    numbers = [int(line) for line in said.splitlines() if line.isdecimal()]
    assert numbers[1:] == [*range(1, 20001)]
    assert is_alive(numbers[0])
    os.kill(numbers[0], signal.SIGKILL)


def test_a_long_output_is_cut_between_lines_so_that_no_secret_is_cut(one: Workspace) -> None:
    program = "yes $SECRET_TOKEN | head -n 100000"
    one.run(*EXEC, program, environment=BY_HAND, SECRET_TOKEN="swordfish")
    whole = printed(only(one)[0])
    assert len(whole) < 2**19 + 100
    kept = whole.splitlines()
    assert len(kept) > 1000
    assert [line for line in kept if line != b"***"] == [b"", b"[475720 bytes left out]"]
