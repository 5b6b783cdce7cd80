"""Scripts of strangers: forks, threads, MLflow used by the script itself, a notebook's streams."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from workspaces import Workspace, new_repository, spool

from runrecord.record.reader import Record, files_in, view

FORK = """
import os, runrecord
with runrecord.start_run("train") as run:
    run.log({"loss": 1.0}, 1)
    child = os.fork()
    if child == 0:
        run.log({"loss": 9.0}, 2)
    _, status = os.waitpid(child, 0)
    print("child", os.waitstatus_to_exitcode(status))
    run.log({"loss": 0.5}, 2)
"""
LEAVING = """
import os, sys, runrecord
with runrecord.start_run("train") as run:
    run.log({"loss": 1.0}, 1)
    for way in ("exit", "error", "end"):
        child = os.fork()
        if child == 0:
            if way == "exit":
                sys.exit(0)
            if way == "error":
                raise ValueError("of a child")
            break
        os.waitpid(child, 0)
    else:
        run.log({"loss": 0.5}, 2)
"""
UNTOUCHED = """
import os, signal, sys, runrecord
mine = sys.stdout, sys.stderr, dict(os.environ)
handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
with runrecord.start_run("train") as run:
    assert (sys.stdout, sys.stderr) == mine[:2]
    assert dict(os.environ) == mine[2]
    run.log({"loss": 1.0})
loaded = {"mlflow", "tensorboardX", "tensorboard", "torch"} & {*sys.modules}
assert not loaded, loaded
assert (sys.stdout, sys.stderr, dict(os.environ)) == mine
assert handlers == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
"""
AUTOLOG = """
import warnings; warnings.simplefilter("ignore")
import mlflow, numpy, runrecord
mlflow.set_tracking_uri("sqlite:///own.db")
mlflow.sklearn.autolog(silent=True)
from sklearn.linear_model import LinearRegression
with mlflow.start_run(), runrecord.start_run("train") as run:
    LinearRegression().fit(numpy.arange(8.0)[:, None], numpy.arange(8.0))
    run.log({"loss": 1.0})
print("own", len(mlflow.search_runs()))
"""
NOTEBOOK = """
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
cells = (
    "import runrecord; print('before')",
    "with runrecord.start_run('train') as run:\\n    run.log({'loss': 1.0})\\n    print('within')",
    "print('after')",
)
notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
NotebookClient(notebook).execute()
print(*("".join(output["text"] for output in cell.outputs) for cell in notebook.cells))
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Workspace:
    return Workspace(new_repository(tmp_path / "repository"))


def run(workspace: Workspace, script: str, **environment: str) -> str:
    (workspace.path / "train.py").write_text(script)
    return workspace.run("python", "train.py", environment=environment)


OFF = {"RUNRECORD_SINKS": "off"}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (FORK, ("error: the run belongs to the process that this one was forked from", "child 2")),
        (LEAVING, ("ValueError: of a child",)),
    ],
)
def test_a_forked_child_neither_logs_to_its_parents_run_nor_ends_it(
    stranger: Workspace, script: str, said: Sequence[str]
) -> None:
    output = run(stranger, script, **OFF)
    assert [output.count(words) for words in said] == [1] * len(said)
    (folder,) = spool(stranger)
    seen = view(Record(files_in(folder)))
    assert seen.status == "FINISHED"
    assert seen.series["loss"] == {1: (1.0, []), 2: (0.5, [])}


def test_a_script_keeps_its_streams_environment_signals_and_libraries(stranger: Workspace) -> None:
    run(stranger, UNTOUCHED, GIT_DIR=str(stranger.path / ".git"))


@pytest.mark.slow
def test_a_script_that_uses_mlflow_itself_has_its_own_runs_there(stranger: Workspace) -> None:
    assert "own 1" in run(stranger, AUTOLOG)
    own = {"MLFLOW_TRACKING_URI": "sqlite:///own.db"}  # by which MLflow tells what it starts, too
    assert "1 already there" in stranger.run("runrecord", "sync", environment=own)


@pytest.mark.slow
@pytest.mark.needs("notebook")
def test_a_notebook_shows_what_its_cells_print(stranger: Workspace) -> None:
    own = dict.fromkeys(
        ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"), str(stranger.path.parent / "jupyter")
    )
    output = run(stranger, NOTEBOOK, **OFF, **own)
    said = ("before", "within", "after")
    assert [word for word in output.split() if word in said] == [*said]
    (folder,) = spool(stranger)
    assert view(Record(files_in(folder))).status == "FINISHED"


@pytest.mark.slow
def test_under_torchrun_rank_0_alone_has_a_run(stranger: Workspace) -> None:
    (stranger.path / "train.py").write_text(
        "import runrecord\nwith runrecord.start_run('train') as run: run.log({'loss': 1.0})\n"
    )
    torchrun = Path(sys.executable).with_name("torchrun")
    output = stranger.run(
        *(str(torchrun), "--standalone", "--nproc-per-node=2", "train.py"), environment=OFF
    )
    assert "rank 1 of several processes records nothing" in output
    (folder,) = spool(stranger)
    assert Record(files_in(folder)).length > 1
