"""A stage runs once more as DVC runs it, and each of its runs meets its own counterpart."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from workspaces import IDENTICAL, Workspace, new_project, spool, verify, with_results

from records import end_run, new_run
from runrecord.record.reader import Record
from runrecord.verify.rebuild import CannotRebuild, counterpart

IGNORED = "/.runrecord\n/records\n/o.txt\n/plot.txt\n/mark\n"
BEGIN = "import os, sys, runrecord\nAGAIN = 'AGAIN' in os.environ\n"


def new(
    folder: Path,
    script: str = "",
    files: Mapping[str, str] | None = None,
    stages: Mapping[str, object] | None = None,
    ignored: str = "",
    **stage: object,
) -> Workspace:
    """A project of one stage, `train`, and of those others; committed, and not run."""
    train = {"cmd": "python train.py", "deps": ["train.py"], "outs": ["o.txt", "records/train"]}
    about = {".gitignore": IGNORED + ignored, ".dvcignore": "/.runrecord\n", **(files or {})}
    pipeline = json.dumps({"stages": {**(stages or {}), "train": train | stage}})
    return new_project(
        folder / "project", {**about, "train.py": BEGIN + script, "dvc.yaml": pipeline}
    )


def project(folder: Path, script: str = "", **more: Any) -> Workspace:
    """Such a project, run; its results are committed, too."""
    return with_results(new(folder, script, **more))


def runs_of(workspace: Workspace) -> list[str]:
    """The ids of its runs, by their numbers."""
    starts = [json.loads((folder / "run.json").read_text()) for folder in spool(workspace)]
    return [start["id"] for start in sorted(starts, key=lambda start: start["number"])]


RUN = """
import os
import runrecord
again = "AGAIN" in os.environ
with runrecord.start_run() as run:
    run.log({"loss": 1.0})
    with open("model.bin", "w") as file:
        file.write("1")
"""


@pytest.mark.parametrize(
    ("after", "status", "said"),
    [
        ("if again: os.remove('model.bin')", 0, "or changed later: model.bin."),
        (
            "if again:\n    with runrecord.start_run(): pass",
            1,
            "different: it was run 1 of its stage, which leaves 2 here.",
        ),
    ],
    ids=["an out is removed", "another run replaces the record"],
)
def test_what_a_rebuilt_stage_does_after_its_run_has_ended_is_no_equal_result(
    here: Path,
    program: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    after: str,
    status: int,
    said: str,
) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    (here / "src/code.py").write_text(RUN + after)
    runpy.run_path("src/code.py")
    monkeypatch.setenv("AGAIN", "1")
    assert said in program("verify", "records/train", "--yes", status=status)


def fold(folder: Path, number: int, begin: int, end: int, process: str = "7") -> Record:
    """A run whose command is its number, of that process."""
    new_run(folder, id=folder.name, number=number, time=begin, command=("fold", str(number)))
    (folder / ".place").write_text(json.dumps({"process": process}))
    return end_run(folder, time=end)


def test_a_run_meets_that_of_its_number_unless_another_process_was_at_it(tmp_path: Path) -> None:
    times = {1: (1, 10), 2: (5, 12), 3: (20, 30), 4: (40, 50)}
    places = {tmp_path / str(number): number for number in (1, 2, 3)}
    starts = [fold(tmp_path / f"then-{n}", n, *span).start for n, span in times.items()]
    again = {path: fold(path, n, *times[n]) for path, n in places.items()}
    found = [counterpart(replace(start, command=()), again) for start in starts]
    assert [one and one.start.number for one in found] == [1, 2, 3, None]
    unnumbered = replace(starts[1], number=1)
    assert counterpart(unnumbered, again) is again[tmp_path / "2"]

    (tmp_path / "2/.place").write_text('{"process": "8"}')
    assert counterpart(starts[2], again) is again[tmp_path / "3"]
    for start in starts[:2]:
        with pytest.raises(CannotRebuild, match="other processes run its stage at the same time"):
            counterpart(replace(start, command=()), again)


def test_an_out_that_git_has_is_removed_before_its_stage_runs_again(tmp_path: Path) -> None:
    script = """
with runrecord.start_run() as run:
    run.log({"a": 1.0})
    open("o.txt", "a").write("1")
    if not AGAIN: open("m.json", "a").write("{}")
"""
    workspace = project(tmp_path, script, metrics=[{"m.json": {"cache": False}}])
    assert (workspace.path / "m.json").exists()
    assert IDENTICAL in verify(workspace, "records/train")
    output = verify(workspace, "records/train", status=1, AGAIN="1")
    assert "first the out m.json is missing" in output


@pytest.mark.slow
def test_runs_of_several_processes_are_numbered_through_their_stage(tmp_path: Path) -> None:
    script = """
with runrecord.start_run() as run:
    fold = float(os.environ["FOLD"])
    run.log({"loss": fold + (AGAIN and fold == 2)})
    open("o.txt", "w").write("x")
"""
    loop = "for f in 1 2 3; do FOLD=$f python train.py; done"
    workspace = project(tmp_path, script, cmd=[loop, "FOLD=4 python train.py"])
    names = runs_of(workspace)
    assert len(names) == 4
    assert IDENTICAL in verify(workspace, names[3])
    assert "first loss at step 0: 2.0, 3.0" in verify(workspace, names[1], status=1, AGAIN="1")


@pytest.mark.slow
def test_what_other_stages_write_and_git_ignores_is_brought(tmp_path: Path) -> None:
    """A program, a file of params, and a file in a folder that Git has."""
    script = """
import subprocess
with runrecord.start_run() as run:
    run.log({"a": run.params["best.json:lr"]})
    subprocess.run("./tool", check=True)
"""
    make = "printf '#!/bin/sh\\necho 1 > o.txt\\n' > tool && chmod +x tool"
    workspace = project(
        tmp_path,
        script,
        files={"src/a": "1\n", "src/.cache": "kept by a tool\n"},
        stages={
            "build": {"cmd": make, "outs": ["tool"]},
            "search": {"cmd": "echo '{\"lr\": 0.5}' > best.json", "outs": ["best.json"]},
        },
        ignored="/tool\n/best.json\n/src/.cache\n",
        deps=["train.py", "tool", "src"],
        params=[{"best.json": ["lr"]}],
    )
    for gone in ((), ("tool", "best.json")):
        for name in gone:
            (workspace.path / name).unlink()
        output = verify(workspace, "records/train", "--yes")
        assert IDENTICAL in output
        assert "running" not in output
    (workspace.path / "src/.cache").write_text("another\n")
    output = verify(workspace, "records/train", "--yes", status=1)
    assert "the rebuilt run had another src (data)" in output


CLAIM = """
import sys
from pathlib import Path
from runrecord.store.runs import claim_run
sys.stdin.readline()
with claim_run(Path(sys.argv[1]), "train", "train") as (_, number):
    print(number, flush=True)
    sys.stdin.readline()
"""


def test_runs_that_begin_at_once_have_numbers_of_their_own(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(tmp_path)],
            env=os.environ | {"RUNRECORD_EXECUTION": "one"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:
        print(file=process.stdin, flush=True)
    numbers = [int(process.stdout.readline()) for process in processes if process.stdout]
    for process in processes:
        process.communicate()
    assert sorted(numbers) == list(range(1, 9))


FOLDS = """
import signal
import numpy as np

class Sum:
    def __init__(self, value): self.value = np.array([float(value)])
    def state_dict(self): return {"value": self.value}
    def load_state_dict(self, arrays): self.value = arrays["value"]

def fold(number):
    with runrecord.start_run(length="epochs") as run:
        state = Sum(100 * number)
        for epoch in run.epochs(run.params["epochs"], state):
            state.value = state.value + 1
            run.log({"value": float(state.value[0])})
            if epoch == 2 and os.environ.get("STOP") == str(number):
                os.kill(os.getpid(), signal.SIGTERM)
    with open("o.txt", "a") as file:
        file.write(f"{state.value[0]:.0f} ")
"""
PROGRAMS = {
    "in one program": (FOLDS + "for number in (1, 2, 3): fold(number)\n", "python train.py"),
    "in several": (
        FOLDS + "fold(int(sys.argv[1]))\n",
        "python train.py 1 && python train.py 2 && python train.py 3",
    ),
}


@pytest.mark.parametrize(
    "programs", ["in one program", pytest.param("in several", marks=pytest.mark.slow)]
)
def test_each_of_several_runs_goes_on_from_its_own_checkpoint(
    tmp_path: Path, programs: str
) -> None:
    script, command = PROGRAMS[programs]
    files = {"params.yaml": "epochs: 3\n"}
    workspace = new(tmp_path, script, files=files, cmd=command, params=["epochs"])
    stopped = workspace.run("dvc", "repro", status=255, RUNRECORD_SINKS="off", STOP="2")
    assert "resuming" not in stopped
    assert workspace.run("dvc", "repro", RUNRECORD_SINKS="off").count("\nresuming ") == 1
    assert workspace.read("o.txt") == b"103 203 303 "
    workspace.set_params(epochs=5)
    assert workspace.run("dvc", "repro", RUNRECORD_SINKS="off").count("\ncontinuing ") == 3
    assert workspace.read("o.txt") == b"105 205 305 "
