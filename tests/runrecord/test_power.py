"""The power fails: what was not synced is lost, in all ways that a disk may have it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from power import looked_at
from stops import Program
from workspaces import ROOT

from runrecord.files import sha256
from runrecord.record.events import File, Logged, ModelSaved, RunEnded, RunStarted
from runrecord.record.writer import RecordWriter
from runrecord.store.runs import STORE

pytestmark = pytest.mark.needs("ptrace")

TEXT = File("texts/a.txt", sha256(b"a text"))


def write_a_record(root: Path) -> None:
    """In a new repository: a run of two epochs, with files, which is sealed twice."""
    writer = RecordWriter(root / STORE / "run-1")
    writer.write(RunStarted("run-1", "train", 1, "host", {}, {}))
    for epoch in (1, 2):
        writer.write(Logged(2, epoch, {"loss": 1.0}, texts={"a": TEXT}), {TEXT.name: b"a text"})
    model = root / "model.bin"
    file, contents = writer.keep("artifacts", "model", model, ".bin")
    writer.write(ModelSaved(2, "model", file, model.name, 1), contents)
    for _ in range(2):
        writer.seal(root / "records" / "train", RunEnded(3, "FINISHED"))
    writer.write(RunEnded(3, "FINISHED"))


def test_nothing_on_record_is_lost_when_the_power_fails(tmp_path: Path) -> None:
    """At every call that writes: all that is not synced is gone, or some of it."""
    root = tmp_path.resolve() / "project"
    root.mkdir()
    (root / "model.bin").write_bytes(b"weights")
    program = Program(lambda: write_a_record(root), root, dict(os.environ))
    places = root.parent / "states"
    calls, states, faults = looked_at(program, root, places, seed=0, ways=("both", "some"))
    assert faults == []
    assert states > 200, f"of {calls} calls"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_from_what_a_power_cut_leaves() -> None:
    """Sixty of `make campaign`'s thousand states, and all records at every call of two runs."""
    command = [sys.executable, str(ROOT / "tests" / "power.py"), "--states", "60"]
    command += ["--look", "both", "some"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
