"""`runrecord verify`: a run is rebuilt elsewhere and proved equal, or why not is said."""

import hashlib
import json
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow_views import everything, runs, verdict
from workspaces import (
    IDENTICAL,
    NUMERIC,
    RECORD_ONLY,
    TOY_TRAIN,
    Workspace,
    assert_nothing_left,
    new_project,
    read_until,
    recorded,
    spool,
    stop,
    verify,
    wait_until,
)


def shown(toy: Workspace, empty_store: Path) -> Run:
    """Train, and let MLflow show it."""
    shutil.copyfile(empty_store, toy.path / "mlflow.db")
    toy.run(*TOY_TRAIN)
    return runs(toy, "train")[0]


def test_a_clean_run_is_bit_identical_until_mlflow_shows_another_point(
    toy: Workspace, empty_store: Path
) -> None:
    run = shown(toy, empty_store)
    before, status = everything(toy), toy.run("git", "status", "--porcelain")
    output = verify(toy, run.info.run_id)
    assert IDENTICAL in output
    assert "shows what the record says" in output
    after = everything(toy)
    tags = after[run.info.run_name]["tags"]
    names = [name for name in tags if name.startswith("verified")]
    found = {name: tags.pop(name) for name in names}
    assert after == before, "but for the verdict, MLflow is as it was"
    assert found["verified"] == "bit-identical"
    assert ", python 3" in found["verified.environment"]
    assert set(found) == {
        f"verified{end}" for end in ("", ".why", ".time", ".host", ".environment")
    }
    assert toy.run("git", "status", "--porcelain") == status
    assert len(spool(toy)) == 1

    with closing(sqlite3.connect(toy.path / "mlflow.db")) as database, database:
        update = "UPDATE metrics SET value = value * 1.000001 WHERE key = 'Length' AND step = 2"
        assert database.execute(update).rowcount == 1
    output = verify(toy, run.info.run_id, status=1)
    assert "different: MLflow shows Length at step 2 = " in output
    assert ", the run's record has " in output
    assert verdict(toy, run) == "different"


def test_uncommitted_changes_and_new_files_are_rebuilt_too(toy: Workspace) -> None:
    (toy.path / "scale.py").write_text("SCALE = 0.5\n")
    script = toy.path / "train.py"
    text = script.read_text().replace("numbers.mean()", "numbers.mean() * SCALE")
    script.write_text(f"from scale import SCALE\n{text}")
    toy.set_params(train__lr=0.002)
    run = recorded(toy, TOY_TRAIN)
    for name in ("scale.py", "train.py", "params.yaml"):
        (toy.path / name).unlink()  # what is in the workspace now does not matter
    toy.run("git", "checkout", "--quiet", "--", ".")
    output = verify(toy, run)
    assert IDENTICAL in output
    assert "and its uncommitted change" in output


def test_a_run_that_was_killed_and_resumed_twice(toy: Workspace) -> None:
    for epochs in (1, 4):
        stop(toy, epochs, signal.SIGKILL, TOY_TRAIN, **RECORD_ONLY)
    run = recorded(toy, TOY_TRAIN)
    assert len(spool(toy)) == 1
    assert (spool(toy)[0] / "events.jsonl").read_text().count('"resumed"') == 2
    assert IDENTICAL in verify(toy, run)


def test_a_run_that_did_not_finish_or_whose_commit_is_gone_is_said(toy: Workspace) -> None:
    stop(toy, 1, signal.SIGTERM, TOY_TRAIN, **RECORD_ONLY)
    (folder,) = spool(toy)
    output = verify(toy, folder.name, status=2)
    assert "cannot be rebuilt: it did not finish: it was KILLED at step 2" in output
    record, gone = toy.path / "records/evaluation/run.json", "f" * 40
    with (toy.path / "evaluate.py").open("a") as file:
        file.write("# another\n")
    toy.run("git", "checkout", "--quiet", "--orphan", "other")
    toy.commit("other")
    toy.run("git", "branch", "--quiet", "-D", "main")
    start = json.loads(record.read_text())
    start["tags"]["git.commit"] = gone
    record.chmod(0o644)
    record.write_text(json.dumps(start))
    output = verify(toy, "records/evaluation", status=2)
    assert f"cannot be rebuilt: its commit {gone} is not in this clone" in output


@pytest.mark.slow
def test_experiments_by_their_name_and_restored_runs(toy: Workspace) -> None:
    run = ("dvc", "exp", "run", "--temp", "--name", "longer", "-S", "train.epochs=9")
    toy.run(*run, environment=RECORD_ONLY)
    output = verify(toy, "longer")
    assert output.count(IDENTICAL) == 2
    toy.set_params(train__epochs=9)
    assert toy.repro() == [], "restored from the run cache"
    toy.run("runrecord", "sync")
    (restored,) = [run for run in runs(toy, "train") if run.data.params["train.epochs"] == "9"]
    assert IDENTICAL in verify(toy, restored.info.run_id)
    assert verdict(toy, restored) == "bit-identical"


def test_a_clone_and_a_remote_are_enough(toy: Workspace, tmp_path: Path) -> None:
    toy.run("dvc", "remote", "add", "--quiet", "--default", "far", str(tmp_path / "far"))
    toy.run("git", "commit", "--quiet", "--all", "--message=remote")
    toy.run("dvc", "push", "--quiet")
    toy.run("git", "clone", "--quiet", str(toy.path), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    shutil.rmtree(toy.path)
    output = verify(clone, "HEAD")
    assert output.count(IDENTICAL) == 2
    assert "does not show this run here" in output
    assert not (clone.path / "mlflow.db").exists()
    assert not (clone.path / "numbers.txt").exists()


def test_what_is_gone_is_made_again(toy: Workspace) -> None:
    shutil.copytree(toy.path / "records/evaluation", toy.path / "kept")
    for path in (toy.path / ".dvc/cache/files/md5").glob("*/*"):
        if path.suffix != ".dir":
            path.unlink()
    for name in ("model.bin", "numbers.txt"):
        (toy.path / name).unlink()
    output = verify(toy, "kept")
    for stage in ("numbers", "train"):
        assert f"running {stage}" in output
    assert IDENTICAL in output


def test_a_damaged_record_and_a_store_that_is_gone_are_said(toy: Workspace) -> None:
    name = recorded(toy, TOY_TRAIN)
    output = verify(toy, name, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "warning: MLflow's tracking store cannot be used: " in output
    assert IDENTICAL in output
    pictures = list((spool(toy)[0] / "images").glob("*.png"))
    assert len(pictures) == 8
    pictures[0].write_bytes(b"no picture")
    output = verify(toy, name, status=1)
    assert (
        f"different: 1 results differ, first the file of the record images/{pictures[0].name}"
        in output
    )
    events = spool(toy)[0] / "events.jsonl"
    events.write_bytes(b"{}\n" + events.read_bytes())
    output = verify(toy, name, status=2)
    assert "Verdict: cannot be rebuilt: its record cannot be used: " in output


@pytest.mark.slow
def test_a_forged_change_is_asked_about_and_never_tags_the_real_run(
    toy: Workspace, empty_store: Path, tmp_path: Path
) -> None:
    """A record from MLflow or a remote, its id and host kept, with another change in it."""
    with (toy.path / "train.py").open("a") as file:
        file.write("# mine\n")
    run = shown(toy, empty_store)
    forged = tmp_path / "forged"
    shutil.copytree(spool(toy)[0], forged)
    victim = tmp_path / "victim"
    patch = (forged / "change.patch").read_bytes()
    patch = patch.replace(b"+# mine", f"+open({str(victim)!r}, 'w')".encode())
    (forged / "change.patch").write_bytes(patch)
    start = json.loads((forged / "run.json").read_text())
    start["patch"]["sha256"] = hashlib.sha256(patch).hexdigest()
    (forged / "run.json").write_text(json.dumps(start))

    output = verify(toy, str(forged), status=2)
    assert "never run from this repository on this machine" in output
    assert not victim.exists()
    output = verify(toy, str(forged), "--yes", status=1)
    assert victim.exists()
    assert "different: MLflow shows the tag record.patch = " in output
    assert "not tagged" in output
    (found,) = runs(toy)
    assert "verified" not in found.data.tags
    assert IDENTICAL in verify(toy, run.info.run_id), "the real one is not asked about"


SHOWS_VARIABLES = {
    ".gitignore": "/out.txt\n/records\n",
    "show.py": f"""
import os
import runrecord

with runrecord.start_run():
    found = {{name: os.environ.get(name) for name in {NUMERIC.split()}}}
    open("out.txt", "w").write(repr(found))
""",
    "dvc.yaml": "stages: {show: {cmd: python show.py, deps: [show.py], "
    "outs: [out.txt, records/show]}}\n",
}


def test_every_variable_that_changes_numbers_is_as_the_run_had_it(tmp_path: Path) -> None:
    workspace = new_project(tmp_path / "project", SHOWS_VARIABLES)
    values = dict.fromkeys(NUMERIC.split(), "1")
    values |= {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "PYTHONHASHSEED": "7"}
    workspace.run("dvc", "repro", environment=RECORD_ONLY | values)
    assert IDENTICAL in verify(workspace, "records/show")
    output = verify(workspace, "records/show", status=1, OPENBLAS_NUM_THREADS="2")
    assert "the bytes of the out out.txt" in output, "one that a person sets wins"
    assert "possible cause: env.OPENBLAS_NUM_THREADS." in output


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_it_leaves_nothing_behind(toy: Workspace, sent: signal.Signals) -> None:
    run = recorded(toy, TOY_TRAIN)
    with toy.start("runrecord", "verify", run, PAUSE_AFTER="2") as process:
        assert process.stdout is not None
        read_until(process.stdout, "epoch 2/")
        (folder,) = (toy.path / ".runrecord/verify").iterdir()
        process.send_signal(sent)
        process.stdout.read()
    if sent == signal.SIGKILL:
        wait_until(lambda: not alive_in(folder))
        toy.set_params(train__lr=3)  # what is there now does not matter
        assert IDENTICAL in verify(toy, run)
    else:
        assert process.returncode == 128 + sent
    assert_nothing_left(toy)
    assert not alive_in(folder)


def alive_in(folder: Path) -> list[Path]:
    """The processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(process)
        except OSError:
            pass  # it is gone, or not ours to look at
    return found
