"""`runrecord verify`: a run is rebuilt elsewhere and proved equal, or why not is said."""

import hashlib
import json
import re
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from helpers import TRAIN, Workspace, everything, read_until, runs, spool, stop, wait_until
from mlflow.entities import Run

IDENTICAL = "Verdict: bit-identical: "
OTHER_PRODUCTS = "COMPATIBLE"
"""For MKL_CBWR: kernels for any processor, which round otherwise than those MKL takes by itself."""
RECORD_ONLY = {"RUNRECORD_SINKS": "off"}


def verify(
    workspace: Workspace, name: str, *options: str, status: int = 0, **environment: str
) -> str:
    """Verify a run, expecting an exit status; nothing may be left behind."""
    output = workspace.run(
        "runrecord", "verify", name, *options, status=status, environment=environment
    )
    assert_nothing_left(workspace)
    return output


def assert_nothing_left(workspace: Workspace) -> None:
    assert not (workspace.path / ".runrecord" / "verify").exists()


def trained(workspace: Workspace) -> Run:
    workspace.run(*TRAIN)
    return runs(workspace)[0]


def recorded(workspace: Workspace) -> str:
    """Train without MLflow and TensorBoard; the name of the run."""
    workspace.run(*TRAIN, environment=RECORD_ONLY)
    assert not (workspace.path / "mlflow.db").exists()
    assert not (workspace.path / "tensorboard").exists()
    return spool(workspace)[-1].name


def verdict(workspace: Workspace, run: Run) -> str:
    (found,) = [other for other in runs(workspace) if other.info.run_id == run.info.run_id]
    return str(found.data.tags["verified"])


def test_a_clean_run_is_bit_identical_and_tagged_so(workspace: Workspace) -> None:
    run = trained(workspace)
    before, status = everything(workspace), workspace.run("git", "status", "--porcelain")
    output = verify(workspace, run.info.run_id)
    assert IDENTICAL in output
    assert "shows what the record says" in output
    after = everything(workspace)
    tags = after[run.info.run_name]["tags"]
    names = [name for name in tags if name.startswith("verified")]
    found = {name: tags.pop(name) for name in names}
    assert after == before, "but for the verdict, MLflow is as it was"
    assert found["verified"] == "bit-identical"
    assert "torch" in found["verified.environment"]
    assert set(found) == {
        f"verified{end}" for end in ("", ".why", ".time", ".host", ".environment")
    }
    assert workspace.run("git", "status", "--porcelain") == status
    assert len(spool(workspace)) == 1


def test_uncommitted_changes_and_new_files_are_rebuilt_too(workspace: Workspace) -> None:
    (workspace.path / "src/generative/scale.py").write_text("SCALE = 0.5\n")
    source = workspace.path / "src/generative/models/vae.py"
    text = source.read_text().replace("LeakyReLU(0.2)", "LeakyReLU(SCALE)")
    line = "from generative.models.base import ("
    source.write_text(text.replace(line, f"from generative.scale import SCALE\n{line}"))
    workspace.set_params(vae__lr=0.002)
    run = recorded(workspace)
    for name in ("src/generative/scale.py", "src/generative/models/vae.py", "params.yaml"):
        (workspace.path / name).unlink()  # what is in the workspace now does not matter
    workspace.run("git", "checkout", "--quiet", "--", ".")
    output = verify(workspace, run)
    assert IDENTICAL in output
    assert "and its uncommitted change" in output


def test_a_point_changed_in_mlflow_is_different_and_named(workspace: Workspace) -> None:
    run = trained(workspace)
    with closing(sqlite3.connect(workspace.path / "mlflow.db")) as database, database:
        update = "UPDATE metrics SET value = value * 1.000001 WHERE key = ? AND step = 2"
        assert database.execute(update, ["Test/KL-Divergence"]).rowcount == 1
    output = verify(workspace, run.info.run_id, status=1)
    assert "different: MLflow shows Test/KL-Divergence = " in output
    assert " at step 2, the run's record has " in output
    assert verdict(workspace, run) == "different"


def test_a_record_that_was_changed_is_different_from_there_on(workspace: Workspace) -> None:
    run = recorded(workspace)
    path = spool(workspace)[0] / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    (second,) = [one for one in events if one.get("step") == 2 and one.get("metrics")]
    second["steps"]["Test/KL-Divergence"][0] *= 1.000001
    path.write_text("".join(f"{json.dumps(one)}\n" for one in events))
    output = verify(workspace, run, status=1)
    assert "first Test/KL-Divergence at epoch 2, step 1" in output
    assert "possible cause: nothing that the record tells of" in output


def test_other_arithmetic_is_equal_within_tolerance_and_named(workspace: Workspace) -> None:
    output = verify(workspace, "HEAD:ae", MKL_CBWR=OTHER_PRODUCTS)
    assert "Verdict: equal within tolerance: metrics differ by at most " in output
    assert re.search(r", first \S.* at epoch \d, step \d+; other here: env\.MKL_CBWR\.", output)


@pytest.mark.slow
def test_what_is_not_within_tolerance_is_different(workspace: Workspace) -> None:
    workspace.run("runrecord", "sync")
    output = verify(workspace, "HEAD:ae", "--tolerance=0", status=1, MKL_CBWR=OTHER_PRODUCTS)
    assert "possible cause: env.MKL_CBWR." in output
    (run,) = runs(workspace, "train-ae")
    assert verdict(workspace, run) == "different"


@pytest.mark.slow
def test_another_thread_count_and_its_variables_are_the_runs_own(workspace: Workspace) -> None:
    workspace.set_params(compute__threads=1)
    workspace.run("python", "stages/train_ae.py", ATEN_CPU_CAPABILITY="default")
    workspace.set_params(compute__threads=2)
    assert IDENTICAL in verify(workspace, runs(workspace)[0].info.run_id)


@pytest.mark.slow
def test_code_edited_in_mid_run_is_no_run_to_verify(workspace: Workspace) -> None:
    workspace.set_params(vae__batch_size=1, vae__epochs=4)
    with workspace.start(*TRAIN) as process:
        assert process.stdout is not None
        read_until(process.stdout, "epoch 1/")
        with (workspace.path / "src/generative/models/vae.py").open("a") as file:
            file.write("LEFT_OUT = True\n")
        process.stdout.read()
    output = verify(workspace, runs(workspace)[0].info.run_id, status=2)
    assert "cannot be rebuilt: it did not finish: it was FAILED at step 4" in output


@pytest.mark.slow
def test_a_run_that_was_killed_and_resumed_three_times(workspace: Workspace) -> None:
    workspace.set_params(vae__batch_size=1, vae__epochs=12)
    for after in (1, 4, 7):
        stop(workspace, after)
    run = trained(workspace)
    assert len(spool(workspace)) == 1
    assert IDENTICAL in verify(workspace, run.info.run_id)


@pytest.mark.slow
def test_a_run_that_did_not_finish_is_said(workspace: Workspace) -> None:
    workspace.set_params(vae__batch_size=1, vae__epochs=4)
    stop(workspace, 1, signal.SIGTERM)
    (folder,) = spool(workspace)
    output = verify(workspace, folder.name, status=2)
    assert "cannot be rebuilt: it did not finish: it was KILLED at step " in output


@pytest.mark.slow
def test_experiments_by_their_name_and_restored_runs(workspace: Workspace) -> None:
    workspace.run(
        *("dvc", "exp", "run", "--temp", "--name", "smaller", "-S", "vae.latent_dim=4"),
        "evaluate",
    )
    output = verify(workspace, "smaller")
    assert output.count(IDENTICAL) == 3
    workspace.set_params(vae__latent_dim=4)
    assert workspace.repro() == [], "restored from the run cache"
    workspace.run("runrecord", "sync")
    trainings = runs(workspace, "train-vae")
    (run,) = [run for run in trainings if run.data.params["latent_dim"] == "4"]
    assert IDENTICAL in verify(workspace, run.info.run_id)
    assert verdict(workspace, run) == "bit-identical"


def test_a_clone_and_a_remote_are_enough(workspace: Workspace, tmp_path: Path) -> None:
    workspace.run("dvc", "remote", "add", "--quiet", "--default", "far", str(tmp_path / "far"))
    workspace.run("git", "commit", "--quiet", "--all", "--message=remote")
    workspace.run("dvc", "push", "--quiet")
    workspace.run("git", "clone", "--quiet", str(workspace.path), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    shutil.rmtree(workspace.path)
    output = verify(clone, "HEAD", MNIST_MIRROR="/nowhere")
    assert output.count(IDENTICAL) == 3
    assert "does not show this run here" in output
    assert not (clone.path / "mlflow.db").exists()
    assert not (clone.path / "data/mnist").exists()


@pytest.mark.slow
def test_models_that_are_gone_are_trained_again(workspace: Workspace) -> None:
    shutil.copytree(workspace.path / "records/evaluation", workspace.path / "kept")
    for path in (workspace.path / ".dvc/cache/files/md5").glob("*/*"):
        if path.suffix != ".dir":
            path.unlink()
    shutil.rmtree(workspace.path / "models")
    shutil.rmtree(workspace.path / "data/mnist")
    output = verify(workspace, "kept")
    for stage in ("download-mnist", "train-ae", "train-vae"):
        assert f"running {stage}" in output
    assert IDENTICAL in output


@pytest.mark.slow
def test_a_damaged_record_and_a_store_that_is_gone_are_said(workspace: Workspace) -> None:
    name = recorded(workspace)
    output = verify(workspace, name, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "warning: MLflow's tracking store does not answer" in output
    assert IDENTICAL in output
    pictures = list((spool(workspace)[0] / "images").glob("*.png"))
    assert len(pictures) == 2
    pictures[0].write_bytes(b"no picture")
    output = verify(workspace, name, status=2)
    assert "Verdict: cannot be rebuilt: its record cannot be used: " in output


@pytest.mark.slow
def test_what_is_missing_is_said(workspace: Workspace) -> None:
    run = trained(workspace)
    for path in (workspace.path / ".dvc/cache/files/md5").glob("*/*"):
        path.unlink()
    shutil.rmtree(workspace.path / "data/mnist")
    output = verify(workspace, run.info.run_id, status=2, MNIST_MIRROR="/nowhere")
    assert "cannot be rebuilt: download-mnist fails here: " in output
    assert verdict(workspace, run) == "cannot be rebuilt"

    workspace.run("git", "commit", "--quiet", "--amend", "--message=other")
    workspace.run("git", "reflog", "expire", "--expire=now", "--all")
    workspace.run("git", "gc", "--quiet", "--prune=now")
    output = verify(workspace, run.info.run_id, status=2)
    commit = run.data.tags["git.commit"]
    assert f"cannot be rebuilt: its commit {commit} is not in this clone" in output

    shutil.rmtree(spool(workspace)[0])
    shutil.rmtree(workspace.path / "records")
    output = verify(workspace, run.info.run_id, status=2)
    assert f"error: {run.info.run_id}: no record of such a run" in output
    assert verdict(workspace, run) == "cannot be rebuilt"


def test_a_change_from_elsewhere_is_shown_and_asked_about(
    workspace: Workspace, tmp_path: Path
) -> None:
    with (workspace.path / "src/generative/models/vae.py").open("a") as file:
        file.write("# hello\x1b[31m\n")
    recorded(workspace)
    workspace.run("git", "clone", "--quiet", str(workspace.path), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    record = str(workspace.path / "records/vae")
    output = verify(clone, record, status=2)
    assert "+# hello\ufffd[31m" in output, "no control character reaches the terminal"
    assert "say --yes" in output
    assert "epoch 1/" not in output
    assert IDENTICAL in verify(clone, record, "--yes")


def test_a_forged_change_is_asked_about_and_never_tags_the_real_run(
    workspace: Workspace, tmp_path: Path
) -> None:
    """A record from MLflow or a remote, its id and host kept, with another change in it."""
    source = workspace.path / "src/generative/models/vae.py"
    with source.open("a") as file:
        file.write("# mine\n")
    run = trained(workspace)
    forged = tmp_path / "forged"
    shutil.copytree(spool(workspace)[0], forged)
    victim = tmp_path / "victim"
    patch = (forged / "change.patch").read_bytes()
    patch = patch.replace(b"+# mine", f"+open({str(victim)!r}, 'w')".encode())
    (forged / "change.patch").write_bytes(patch)
    start = json.loads((forged / "run.json").read_text())
    start["patch"]["sha256"] = hashlib.sha256(patch).hexdigest()
    (forged / "run.json").write_text(json.dumps(start))

    output = verify(workspace, str(forged), status=2)
    assert "never run from this repository on this machine" in output
    assert not victim.exists()
    output = verify(workspace, str(forged), "--yes", status=1)
    assert victim.exists()
    assert "different: MLflow shows the SHA-256 of change.patch = " in output
    assert "not tagged" in output
    (shown,) = runs(workspace)
    assert "verified" not in shown.data.tags
    assert IDENTICAL in verify(workspace, run.info.run_id), "the real one is not asked about"


def test_verify_in_a_hook_leaves_the_persons_repository_alone(workspace: Workspace) -> None:
    """Git sets these in the hooks of a worktree, and in `rebase --exec`."""
    with (workspace.path / "src/generative/models/vae.py").open("a") as file:
        file.write("# changed\n")
    run = recorded(workspace)
    workspace.run("git", "commit", "--quiet", "--all", "--message=later")
    places = ("HEAD", "index")
    before = [workspace.read(f".git/{name}") for name in places]
    git = f"{workspace.path}/.git"
    assert IDENTICAL in verify(workspace, run, GIT_DIR=git, GIT_INDEX_FILE=f"{git}/index")
    assert [workspace.read(f".git/{name}") for name in places] == before


@pytest.mark.parametrize(
    "sent",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_interrupted_it_leaves_nothing_behind(workspace: Workspace, sent: signal.Signals) -> None:
    workspace.set_params(vae__batch_size=1, vae__epochs=3)
    run = recorded(workspace)
    with workspace.start("runrecord", "verify", run) as process:
        assert process.stdout is not None
        read_until(process.stdout, "epoch 1/")
        (folder,) = (workspace.path / ".runrecord/verify").iterdir()
        process.send_signal(sent)
        process.stdout.read()
    if sent == signal.SIGKILL:
        wait_until(lambda: not alive_in(folder))
        workspace.set_params(vae__batch_size=100)  # what is there now does not matter
        assert IDENTICAL in verify(workspace, run)
    else:
        assert process.returncode == 128 + sent
    assert_nothing_left(workspace)
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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_virtual_environment_can_be_rebuilt_too(workspace: Workspace) -> None:
    older = "pillow==11.3.0"
    assert f"{older} " not in workspace.read("requirements.lock").decode()
    workspace.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes"),
        *("--python-version=3.11", "--all-extras", f"--upgrade-package={older}"),
        *("pyproject.toml", "--output-file=requirements.lock"),
    )
    output = verify(workspace, recorded(workspace), "--env")
    (line,) = [line for line in output.splitlines() if line.startswith("│ pillow")]
    assert "11.3.0" in line
    assert "Verdict: " in output
