"""`runrecord runs`, `show` and `which`: which run was that, and what made it?"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from workspaces import Workspace, new_repository

from records import end_run, new_run
from runrecord.cli.runs import list_runs, show, which
from runrecord.errors import RunFailed, UserError
from runrecord.store.runs import lock_of, run_dir

Said = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository, the current folder, with the runs `one` to `four` in its store."""
    folder = new_repository(tmp_path / "repository")
    monkeypatch.chdir(folder)
    tags = {"git.commit": "c" * 40, "dvc.experiment": "mine"}
    for time, name in enumerate(("three", "one", "four", "two"), start=1):
        run = new_run(run_dir(folder, name), id=name, time=time * 1000, params={"z": 8}, tags=tags)
        run.log({"Test/Loss": 0.125}, step=1)
        run.text("report", f"by {name}")
        (folder / "model.bin").write_bytes(f"weights of {name}".encode())
        run.model("model.bin")
        run.tag(source="a shelf")
        run.observe({"gpu_0_memory_usage_megabytes": 1000})
        run.observe({"gpu_0_memory_usage_megabytes": 3000})
        run.image("samples", np.full((2, 2), time, np.uint8))
    outs = {"model.bin": hashlib.sha256(b"weights of one").hexdigest()}
    end_run(run_dir(folder, "one"), outs=outs)
    end_run(run_dir(folder, "two"), status="FAILED", message="ValueError: it broke")
    end_run(run_dir(folder, "three"))
    return folder


def test_runs_lists_every_run_once_the_oldest_first(root: Path, capsys: Said) -> None:
    lock = lock_of(run_dir(root, "four"))
    with lock:
        list_runs()
    shown = capsys.readouterr().out
    rows = [[word for word in line.split() if word != "│"] for line in shown.splitlines()]
    rows = [row for row in rows if row and row[0] in ("one", "two", "three", "four")]
    assert [(row[0], row[1]) for row in rows] == [
        *(("three", "FINISHED"), ("one", "FINISHED"), ("four", "RUNNING"), ("two", "FAILED"))
    ]
    assert all(row[-2:] == ["c" * 10, "mine"] for row in rows)
    list_runs()
    assert "cut off" in capsys.readouterr().out, "nobody holds its lock any more"


def test_show_tells_all_of_one_run(root: Path, capsys: Said) -> None:
    show("one")
    shown = capsys.readouterr().out
    digest = hashlib.sha256(b"weights of one").hexdigest()
    for wanted in ("one", "train", "FINISHED", "z", "Test/Loss", "0.125", "model.bin", digest):
        assert wanted in shown
    for name, value in (
        ("source", "a shelf"),
        ("gpu_0_memory_usage_megabytes", "[2000.0, 3000.0]"),
    ):
        (line,) = [line for line in shown.splitlines() if name in line]
        assert value in line
    show("two")
    shown = capsys.readouterr().out
    assert "FAILED" in shown
    assert "ValueError: it broke" in shown
    show(str(run_dir(root, "four")))
    assert "cut off, or running" in capsys.readouterr().out
    with pytest.raises(UserError, match="no record of such a run"):
        show("nothing")


def test_which_names_the_run_of_an_out_a_model_a_text_and_a_picture(
    root: Path, capsys: Said
) -> None:
    (root / "copy of a friend.bin").write_bytes(b"weights of one")
    (root / "report.txt").write_text("by two")
    (root / "picture.png").write_bytes(
        next((run_dir(root, "four") / "images").iterdir()).read_bytes()
    )
    for name, run in (
        ("copy of a friend.bin", "one"),
        ("report.txt", "two"),
        ("picture.png", "four"),
    ):
        which(Path(name))
        assert capsys.readouterr().out == f"{name}: made by {run}, from {'c' * 10}\n"
    (root / "other.bin").write_bytes(b"other")
    with pytest.raises(RunFailed, match=r"other\.bin: no record here.* tells of a run"):
        which(Path("other.bin"))


def test_which_passes_over_a_damaged_record_and_says_so(root: Path, capsys: Said) -> None:
    """One that may have written the file, and one of which that cannot be told."""
    new_run(run_dir(root, "same"), id="same").text("report", "by two")
    for text in (run_dir(root, "same") / "texts").iterdir():
        text.write_text("damaged")
    with (run_dir(root, "three") / "events.jsonl").open("ab") as events:
        events.write(b'{"time": 1}\n{"time": 2}\n')
    (root / "report.txt").write_text("by two")
    which(Path("report.txt"))
    said = capsys.readouterr().out
    assert "report.txt: made by two" in said
    assert "made by same" not in said
    assert "runs/same: " in said
    assert "runs/three: " in said
    which(Path("model.bin"))
    assert "made by two" in capsys.readouterr().out, "its is the last that was written"


def test_records_of_a_commit_are_named_and_what_they_wrote_is_found_in_dvcs_cache(
    toy: Workspace, program: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy.path)
    said = program("show", "HEAD", status=2)
    assert "HEAD: has 2 records (" in said
    assert "name one: HEAD:" in said
    assert "model.bin" in program("show", "HEAD:train")
    copy = toy.path / "of a friend.bin"
    copy.write_bytes(toy.read("model.bin"))
    shutil.rmtree(toy.path / "records")
    for file in ("metrics.json", copy.name):
        assert f"{file}: made by train-" in program("which", file)
    copy.write_bytes(b"other")
    none = "no record here, in DVC's cache or its remote tells of a run"
    assert none in program("which", copy.name, status=1)
    assert "No such file" in program("which", "nothing", status=1)


OF_C = """
import sys
for name in ("_signal", "signal"):
    sys.modules.pop(name, None)
import signal  # anew: Python's own handler counts as one that a program in C had set
assert signal.getsignal(signal.SIGINT) is None
from runrecord.run.process import own_signals
with own_signals():
    print("in it")
"""


def test_a_signal_that_a_program_in_c_handles_is_left_to_it() -> None:
    done = subprocess.run([sys.executable, "-c", OF_C], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("in it\n", "", 0)


def test_a_disk_that_takes_no_output_is_said_and_no_success() -> None:
    command = "runrecord runs > /dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: the output: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr
