"""What MLflow and TensorBoard hold after real runs, ended well, badly and by a signal."""

import hashlib
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from mlflow_views import assert_shown, client, points_of, runs
from workspaces import (
    RECORD_ONLY,
    TOY_STAGE,
    TOY_TRAIN,
    Workspace,
    history,
    read_until,
    spool,
    wait_until,
)

from runrecord import start_run
from runrecord.cli.upkeep import reap
from runrecord.record.events import Contents, Event, Logged, RunEnded, RunStarted
from runrecord.record.reader import Record, files_in, view
from runrecord.record.writer import RecordWriter
from runrecord.run.tracker import Tracker
from runrecord.trackers.base import Sink
from runrecord.trackers.follow import Showing


def test_mlflow_has_every_epoch_and_where_a_run_came_from(
    built: Workspace,
) -> None:
    run = runs(built, "train-gan")[0]
    assert run.info.status == "FINISHED"
    rows = history(built, "gan")
    for name in set(rows[0]) - {"epoch"}:
        assert points_of(built, run, name) == [
            (int(row["epoch"]), float(row[name])) for row in rows
        ]
    names = [file.path for file in client(built).list_artifacts(run.info.run_id, "images")]
    for epoch in (1, 2):
        assert any(f"+step+{epoch}+" in name and name.endswith(".png") for name in names), names

    run = runs(built, "train-ae")[0]
    params = built.params()
    expected = {**params["ae"], **params["compute"], **params["split"]}
    assert run.data.params.keys() == expected.keys() | {"seed", "binarize", "model"}
    assert {key: run.data.params[key] for key in expected} == {
        key: str(value) for key, value in expected.items()
    }
    first = built.run("git", "rev-list", "--max-parents=0", "HEAD").strip()
    assert run.data.tags["git.commit"] == first
    assert run.data.tags["git.dirty"] == "false"
    assert run.data.tags["dvc.stage"] == "train-ae"
    assert run.data.tags["record.id"] == run.info.run_name
    model = built.read("models/ae.safetensors")
    assert run.data.tags["model.sha256"] == hashlib.sha256(model).hexdigest()
    readers = (*runs(built, "train-"), *runs(built, "evaluate"))
    (data,) = {
        (entry.dataset.name, entry.dataset.digest)
        for reader in readers
        for entry in reader.inputs.dataset_inputs
    }
    assert data[0] == "mnist"
    assert all(len(reader.inputs.dataset_inputs) == 1 for reader in readers)


def test_a_logged_model_has_a_signature_and_reconstructs_as_the_file_does(
    built: Workspace, tmp_path: Path
) -> None:
    run = runs(built, "train-ae")[0]
    (output,) = run.outputs.model_outputs
    model = client(built).get_logged_model(output.model_id)
    assert model.status == "READY"
    assert model.params["latent_dim"] == "4"
    location = model.artifact_location.removeprefix("file://")
    (output,) = runs(built, "train-vae")[0].outputs.model_outputs
    drawing = client(built).get_logged_model(output.model_id).artifact_location
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((3, 1, 28, 28), np.float32))
    # Far from this repository: the model brings its code along.
    (tmp_path / "use.py").write_text(
        "import mlflow.pyfunc, numpy, sys\n"
        "sys.path = [p for p in sys.path if not p.endswith('/src')]\n"
        f"model = mlflow.pyfunc.load_model({location!r})\n"
        "assert model.metadata.signature.inputs.inputs[0].shape == (-1, 1, 28, 28)\n"
        "images = numpy.load('images.npy')\n"
        "numpy.save('out.npy', model.predict(images))\n"
        f"model = mlflow.pyfunc.load_model({drawing!r})\n"
        "drawn = model.predict(images, {'seed': 3})\n"
        "assert drawn.shape == images.shape\n"
        "assert (drawn == model.predict(images, {'seed': 3})).all()\n"
        "assert not (drawn == model.predict(images)).any(axis=(1, 2, 3)).all()\n"
    )
    Workspace(tmp_path).run("python", "use.py")
    import torch

    from generative.models.ae import AE
    from generative.models.registry import load_model

    images = torch.from_numpy(np.load(tmp_path / "images.npy"))
    with torch.inference_mode():
        logits = load_model(built.path / "models/ae.safetensors", AE).reconstruct(images)
    assert np.allclose(np.load(tmp_path / "out.npy"), torch.sigmoid(logits).numpy(), atol=1e-6)
    assert not [file for file in Path(location).rglob("*") if file.suffix in (".pkl", ".pickle")]


@pytest.mark.parametrize(
    ("command", "sent", "status"),
    [
        pytest.param(TOY_TRAIN, signal.SIGHUP, 129, id="SIGHUP"),
        pytest.param(TOY_STAGE, signal.SIGTERM, 143, id="SIGTERM to a stage"),
        pytest.param(TOY_STAGE, signal.SIGINT, 130, id="SIGINT to a stage"),
    ],
)
def test_a_stopped_run_is_killed_and_keeps_what_it_logged(
    toy: Workspace, command: tuple[str, ...], sent: signal.Signals, status: int
) -> None:
    """In MLflow too: test_resume.py."""
    with toy.start(*command, **RECORD_ONLY, PAUSE_AFTER="3") as process:
        assert process.stdout is not None
        read_until(process.stdout, "epoch 3/")
        process.send_signal(sent)
        output = process.stdout.read()
    assert process.returncode == status, output
    assert "Traceback" not in output
    (folder,) = spool(toy)
    record = Record(files_in(folder))
    assert record.end is not None
    assert record.end.status == "KILLED"
    assert list(view(record).series["Length"]) == [1, 2, 3]


class Stub(Sink):
    """Does with each event what `act` says, and with None once it is closed."""

    name, package, remedy = "Stub", "json", "somebody completes it later"
    act: "staticmethod[[Event | None], object]"

    def __init__(self, root: Path) -> None:
        pass

    def handle(self, event: Event, contents: Contents) -> None:  # noqa: ARG002
        self.act(event)

    def close(self) -> None:
        self.act(None)


def test_a_tracker_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    released, handled, said = threading.Event(), list[Event | None](), list[str]()
    tracker = Tracker(RecordWriter(tmp_path / "record"))
    tracker.log(RunStarted("run-1", "train", 0, "host", {}, {}))
    hanging, working = (
        Showing(
            type("Made", (Stub,), {"act": staticmethod(act)}),
            *(tmp_path, tmp_path / "record", 0, said.append),
        )
        for act in (lambda _: released.wait(60), handled.append)
    )
    hanging.start()
    working.start()
    tracker.log(Logged(1, 1, {"loss": 1.0}))
    tracker.log(RunEnded(2, "FINISHED"))
    working.join()
    assert [type(one) for one in handled] == [RunStarted, Logged, RunEnded, type(None)]
    assert hanging.is_alive()
    assert said == []
    released.set()
    hanging.join()


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_training_does_not_outlive_a_killed_dvc(toy: Workspace, shell: str) -> None:
    """DVC runs commands by the shell of `SHELL`, which must not stay between the two."""
    toy.set_params(train__lr=0.25)
    with toy.start("dvc", "repro", "train", SHELL=shell, **RECORD_ONLY, PAUSE_AFTER="3") as process:
        assert process.stdout is not None
        read_until(process.stdout, "epoch 3/")
        process.send_signal(signal.SIGKILL)
        process.stdout.read()  # ends when nobody holds the pipe any more: training is over too
    (folder,) = spool(toy)
    record = Record(files_in(folder))
    assert record.end is not None
    assert record.end.status == "KILLED"
    assert list(view(record).series["Length"]) == [1, 2, 3]


def test_a_tracking_server_that_is_gone_costs_a_warning_and_nothing_else(toy: Workspace) -> None:
    before = toy.read("model.bin"), toy.read("metrics.json")
    started = time.monotonic()
    output = toy.run(*TOY_TRAIN, MLFLOW_TRACKING_URI="http://somebody:secret@127.0.0.1:9")
    assert time.monotonic() - started < 60
    assert output.count("warning: MLflow unavailable") == 1
    assert "secret" not in output
    assert (toy.read("model.bin"), toy.read("metrics.json")) == before
    (folder,) = spool(toy)
    assert os.listdir(toy.path / "tensorboard/train") == [folder.name]
    end = Record(files_in(folder)).end
    assert end is not None
    assert end.status == "FINISHED"


def holding(root: Path, secret: str) -> list[str]:
    """The files below a folder, less what a person wrote, that have a text in them."""
    return [
        path.relative_to(root).as_posix()
        for place in (
            ".runrecord/**/*",
            "records/**/*",
            "mlruns/**/*",
            "mlflow.db*",
            "tensorboard/**/*",
        )
        for path in root.glob(place)
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


SECRET = "tok-7f9a8bQz51"
OPEN = "as-everybody-knows"


def test_no_secret_reaches_a_record_or_a_tracker(
    here: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no secret does, by the same ways; a tag that a run begins with is left out whole."""
    shutil.copyfile(empty_store, here / "mlflow.db")
    monkeypatch.delenv("RUNRECORD_SINKS")
    monkeypatch.setenv("MY_API_TOKEN", SECRET)
    places = ("param", "first-tag", "command", "tag", "config", "text", "error")
    said = {place: f"{SECRET} {OPEN}-{place}" for place in places}
    monkeypatch.setattr(sys, "argv", ["train.py", said["command"]])
    params, tags = {"note": said["param"]}, {"note": said["first-tag"]}
    with suppress(ValueError), start_run("train", params=params, tags=tags) as run:
        run.tag(later=said["tag"])
        run.evaluation("m", "params.yaml", {"a": 1.0}, config={"note": [said["config"]]})
        run.text("note", said["text"])
        raise ValueError(said["error"])
    assert holding(here, SECRET) == []
    found = {place: holding(here, f"{OPEN}-{place}") for place in places}
    recorded = {place for place in places if any("runs/" in name for name in found[place])}
    shown = {place for place in places if any(name.startswith("ml") for name in found[place])}
    assert recorded == {*places} - {"first-tag"}
    assert shown == recorded - {"command", "config"}


def test_a_kill_while_mlflow_makes_its_database_leaves_none_behind(
    toy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, scratch = toy.path / "mlflow.db", toy.path / ".runrecord" / "new-database"
    with toy.start(*TOY_TRAIN, PAUSE_AFTER="3") as process:
        wait_until(lambda: (scratch / database.name).exists())
        (follower,) = psutil.Process(process.pid).children()
        process.kill()
        follower.kill()
    assert not database.exists()
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(toy.path)
    reap()
    (folder,) = spool(toy)
    assert_shown(toy, folder)
    (run,) = [run for run in runs(toy) if run.info.run_name == folder.name]
    assert run.info.status == "KILLED"
    assert not scratch.exists()
