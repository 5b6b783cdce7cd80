"""The long campaigns: stops at every write, many at once, a database that somebody holds."""

import re
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from mlflow_views import assert_shown, points_in, runs
from workspaces import OUTS, ROOT, TRAIN, Workspace, read_until, spool, wait_until

pytestmark = pytest.mark.slow


@pytest.mark.needs("ptrace")
def test_sixty_stops_at_writes() -> None:
    """The first sixty of `make campaign`."""
    command = [sys.executable, str(ROOT / "tests" / "campaign.py"), "--stops", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"60 stops \(seed 0\), 0 with a fault, (\d+) not reached", done.stdout)
    assert found, done.stdout
    assert int(found[1]) <= 6, "calls that were to be stopped are no longer made"


def test_six_trainings_at_once_into_one_missing_database(
    workspace: Workspace, tmp_path: Path
) -> None:
    copies = [workspace.copy(tmp_path / f"copy-{number}") for number in range(6)]
    for seed, copy in enumerate(copies):
        copy.set_params(seed=seed)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(copy.start(*TRAIN, DVC_ROOT=str(workspace.path))) for copy in copies
        ]
        for process in processes:
            output, _ = process.communicate()
            assert process.returncode == 0, output
            assert "warning" not in output
            assert "locked" not in output
    assert len(spool(workspace)) == 6
    for folder in spool(workspace):
        assert_shown(workspace, folder)
    assert {run.data.params["seed"] for run in runs(workspace)} == set("012345")
    with closing(sqlite3.connect(workspace.path / "mlflow.db")) as database:
        names = [name for (name,) in database.execute("SELECT name FROM experiments")]
    assert names.count("mnist-generative") == 1


def test_queued_experiments_write_to_the_main_store(workspace: Workspace) -> None:
    for latent_dim in (2, 3):
        workspace.run(
            *("dvc", "exp", "run", "--queue", "-S", f"vae.latent_dim={latent_dim}", "train-vae")
        )
    workspace.run("dvc", "queue", "start", "--jobs", "2")
    wait_until(lambda: workspace.run("dvc", "queue", "status").count("Success") == 2, 240)
    wait_until(lambda: "0 active, 0 idle" in workspace.run("dvc", "queue", "status"), 120)
    found = runs(workspace, "train-vae")
    assert {run.data.params["latent_dim"] for run in found} == {"2", "3"}
    for folder in spool(workspace):
        assert_shown(workspace, folder)


def test_a_database_that_another_process_holds_for_long(workspace: Workspace) -> None:
    """MLflow gives up after 20 s; the run does not, and has caught up by its end."""
    workspace.set_params(vae__batch_size=1, vae__epochs=20)
    workspace.run(*TRAIN)
    undisturbed = [workspace.read(name) for name in OUTS]
    before = points_in(workspace.path / "mlflow.db")
    with workspace.start(*TRAIN) as process:
        assert process.stdout is not None
        read_until(process.stdout, "epoch 1/")
        wait_until(lambda: points_in(workspace.path / "mlflow.db") > before)
        with closing(sqlite3.connect(workspace.path / "mlflow.db", timeout=60)) as database:
            database.execute("BEGIN EXCLUSIVE")
            read_until(process.stdout, "warning: MLflow unavailable: ")
            database.rollback()
        output = process.stdout.read()
        assert process.wait() == 0, output
    assert "warning" not in output
    assert [workspace.read(name) for name in OUTS] == undisturbed
    workspace.run("runrecord", "sync")
    for folder in spool(workspace):
        assert_shown(workspace, folder)
