"""The long campaigns: stops at every write, many at once, a database that somebody holds."""

import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from mlflow_views import assert_shown, points_in, runs
from workspaces import ROOT, TOY_TRAIN, Workspace, read_until, spool, wait_until

pytestmark = pytest.mark.slow


@pytest.mark.needs("ptrace")
@pytest.mark.timeout(900)
def test_sixty_stops_at_writes() -> None:
    """Of each program its share, as `make campaign` has it of a thousand; few are not reached."""
    command = [sys.executable, str(ROOT / "tests" / "campaign.py"), "--stops", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_six_trainings_at_once_into_one_missing_database(toy: Workspace, tmp_path: Path) -> None:
    copies = [toy.copy(tmp_path / f"copy-{number}") for number in range(6)]
    for rate, copy in enumerate(copies, start=1):
        copy.set_params(train__lr=rate)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(copy.start(*TOY_TRAIN, DVC_ROOT=str(toy.path))) for copy in copies
        ]
        for process in processes:
            output, _ = process.communicate()
            assert process.returncode == 0, output
            assert "warning" not in output
            assert "locked" not in output
    assert len(spool(toy)) == 6
    for folder in spool(toy):
        assert_shown(toy, folder)
    assert {run.data.params["train.lr"] for run in runs(toy)} == set("123456")


def test_queued_experiments_write_to_the_main_store(toy: Workspace) -> None:
    for rate in ("0.125", "0.25"):
        toy.run("dvc", "exp", "run", "--queue", "-S", f"train.lr={rate}", "train")
    toy.run("dvc", "queue", "start", "--jobs", "2")
    wait_until(lambda: toy.run("dvc", "queue", "status").count("Success") == 2, 240)
    wait_until(lambda: "0 active, 0 idle" in toy.run("dvc", "queue", "status"), 120)
    found = runs(toy, "train")
    assert {run.data.params["train.lr"] for run in found} == {"0.125", "0.25"}
    for folder in spool(toy):
        assert_shown(toy, folder)


def test_a_database_that_another_process_holds_for_long(toy: Workspace) -> None:
    """MLflow gives up after 20 s; the run does not, and has caught up by its end."""
    outs = ("model.bin", "metrics.json")
    undisturbed = [toy.read(name) for name in outs]
    database = toy.path / "mlflow.db"
    with toy.start(*TOY_TRAIN, PAUSE_AFTER="3,6") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        wait_until(lambda: points_in(database) == 3)
        with closing(sqlite3.connect(database, timeout=60)) as other:
            other.execute("BEGIN EXCLUSIVE")
            process.stdin.write("go on to epoch 6\n")
            process.stdin.flush()
            read_until(process.stdout, "warning: MLflow unavailable: ")
            other.rollback()
        process.stdin.close()
        output = process.stdout.read()
        assert process.wait() == 0, output
    assert "warning" not in output
    assert [toy.read(name) for name in outs] == undisturbed
    toy.run("runrecord", "sync")
    (folder,) = spool(toy)
    assert_shown(toy, folder)
