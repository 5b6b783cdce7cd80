"""A training that was stopped goes on in the same run, and ends with the same bytes."""

import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from helpers import (
    CPU,
    IDENTICAL,
    OUTS,
    RECORD_ONLY,
    SAMPLE,
    TOY_TRAIN,
    TRAIN,
    Workspace,
    assert_shown,
    compute,
    config,
    end_run,
    event_files,
    let_it_pause,
    new_run,
    points_in,
    read_until,
    runs,
    spool,
    stop,
    verify,
    wait_until,
)

from generative.data.dataset import load_images
from generative.models.base import Model
from generative.models.registry import REGISTRY
from generative.training.loop import EpochResult, fit, initialise
from generative.training.optimizers import make_optimizers
from generative.training.runtime import prepare
from generative.training.state import TrainingState
from runrecord import start_run
from runrecord.cli.reap import reap
from runrecord.errors import UserError
from runrecord.record.events import (
    Logged,
    ModelEvaluated,
    ModelSaved,
    Resumed,
    RunEnded,
    RunStarted,
)
from runrecord.record.reader import Record, files_in
from runrecord.record.view import view
from runrecord.record.writer import RecordWriter
from runrecord.resume.checkpoints import Checkpoints, folders_of
from runrecord.resume.identity import Identity
from runrecord.resume.saved_states import Arrays
from runrecord.run.start import rank_in
from runrecord.store.place import here
from runrecord.store.runs import lock_of, run_dir, run_dirs
from runrecord.verify.compare import compare

TOY_OUTS = ("model.bin", "metrics.json")


@pytest.fixture
def undisturbed(built_toy: Workspace) -> list[bytes]:
    """The outs of a toy training that nobody stopped."""
    return [built_toy.read(name) for name in TOY_OUTS]


def checkpoints(workspace: Workspace) -> list[Path]:
    folder = workspace.path / ".runrecord" / "checkpoints"
    return sorted(folder.rglob("*.safetensors"), key=lambda path: path.stem)


@pytest.mark.slow
def test_a_stopped_training_goes_on_in_the_same_run_which_mlflow_shows_as_it_is(
    toy: Workspace, undisturbed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """KILLED once it is known to be gone, RUNNING when it goes on, KILLED again, FINISHED."""
    with toy.start(*TOY_TRAIN, PAUSE_AFTER="3") as process:
        wait_until(lambda: points_in(toy.path / "mlflow.db") == 3)
        process.kill()
    (folder,) = spool(toy)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(toy.path)
    reap()
    assert_shown(toy, folder)
    (run,) = runs(toy)
    assert run.info.status == "KILLED"
    assert "without a trace" in run.data.tags["error"]

    with toy.start(*TOY_TRAIN, PAUSE_AFTER="6") as process:
        assert process.stdout is not None
        read_until(process.stdout, f"going on with {folder.name} after epoch 2")
        wait_until(lambda: points_in(toy.path / "mlflow.db") == 6)
        (run,) = runs(toy)
        sent_at = time.monotonic()
        process.terminate()
        output = process.stdout.read()
    assert run.info.status == "RUNNING"
    assert time.monotonic() - sent_at < 5
    assert process.returncode == 143
    assert "epoch 6/" in output
    assert "Traceback" not in output
    assert_shown(toy, folder)
    (run,) = runs(toy)
    assert run.info.status == "KILLED"

    output = toy.run(*TOY_TRAIN)
    assert f"going on with {folder.name} after epoch 5" in output
    assert [toy.read(name) for name in TOY_OUTS] == undisturbed
    assert spool(toy) == [folder]
    assert_shown(toy, folder)
    (run,) = runs(toy)
    assert run.info.status == "FINISHED"
    assert "error" not in run.data.tags
    steps = [point.step for point in event_files(toy, run).Scalars("Length")]
    assert steps == list(range(4 * 8))
    assert checkpoints(toy) == []


def test_a_live_run_is_not_taken_over(toy: Workspace, undisturbed: list[bytes]) -> None:
    with toy.start(*TOY_TRAIN, **RECORD_ONLY, PAUSE_AFTER="3") as live:
        assert live.stdout is not None
        read_until(live.stdout, "epoch 3/")
        assert [path.stem for path in checkpoints(toy)] == ["000001", "000002"]
        output = toy.run(*TOY_TRAIN, environment=RECORD_ONLY)
        assert "going on" not in output
        assert [toy.read(name) for name in TOY_OUTS] == undisturbed
        assert live.poll() is None
        (toy.path / "model.bin").unlink()
        output, _ = live.communicate()
    assert live.returncode == 0, output
    assert [toy.read(name) for name in TOY_OUTS] == undisturbed
    first, second = (Record(files_in(folder)) for folder in spool(toy))
    for record in (first, second):
        assert record.end is not None
        assert record.end.status == "FINISHED"
    assert logged(first) == logged(second), "neither has anything of the other's"
    assert checkpoints(toy) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "loss"), [("vae", "Total Loss"), ("gan", "Generator Loss")], ids=["vae", "gan"]
)
def test_a_stopped_training_of_a_real_model_goes_on_in_the_same_run(
    model: str, loss: str, workspace: Workspace
) -> None:
    let_it_pause(workspace)
    workspace.set_params(**{f"{model}__batch_size": 1, f"{model}__epochs": 8})
    train = ("python", f"stages/train_{model}.py")
    outs = [name.replace("vae", model) for name in OUTS]
    workspace.run(*train)
    undisturbed = [workspace.read(name) for name in outs]
    stop(workspace, 1, signal.SIGKILL, train)
    stop(workspace, 4, signal.SIGTERM, train)
    output = workspace.run(*train)
    assert "after epoch 4" in output
    assert [workspace.read(name) for name in outs] == undisturbed
    first, second = spool(workspace)
    for folder in (first, second):
        assert_shown(workspace, folder)
    (run,) = [run for run in runs(workspace) if run.info.run_name == second.name]
    assert run.info.status == "FINISHED"
    assert "error" not in run.data.tags
    steps = [point.step for point in event_files(workspace, run).Scalars(f"Test/{loss}")]
    assert steps == list(range(128 * 8))
    assert checkpoints(workspace) == []


@pytest.mark.slow
def test_a_real_training_that_is_wanted_longer_goes_on_from_where_it_ended(
    workspace: Workspace, tmp_path: Path, empty_store: Path
) -> None:
    """It costs the epochs that are more, and is a training of all of them in every other way."""
    straight = workspace.copy(tmp_path / "straight")
    straight.set_params(vae__epochs=4)
    straight.run(*TRAIN, environment=RECORD_ONLY)
    workspace.run(*TRAIN, environment=RECORD_ONLY)
    (first,) = spool(workspace)
    shutil.copyfile(empty_store, workspace.path / "mlflow.db")
    workspace.set_params(vae__epochs=4)
    output = workspace.run("dvc", "repro", "train-vae")
    assert f"going on from {first.name}, whose epochs 1 to 2 this run has too" in output
    assert "vae epoch 2/4" not in output
    assert "vae epoch 3/4" in output
    assert [workspace.read(name) for name in OUTS] == [straight.read(name) for name in OUTS]
    assert workspace.repro("train-vae") == []
    _, second = spool(workspace)
    (alone,) = spool(straight)
    whole, longer = Record(files_in(alone)), Record(files_in(second))
    assert logged(longer) == logged(whole)
    assert_shown(workspace, second)
    (run,) = runs(workspace, "train-vae")
    assert run.data.tags["continues"] == first.name
    assert run.data.params["epochs"] == "4"
    steps = [point.step for point in event_files(workspace, run).Scalars("Test/Total Loss")]
    assert steps == list(range(2 * 4))
    assert IDENTICAL in verify(workspace, "records/vae")


@pytest.mark.parametrize("kind", ["adam", "rmsprop", "adadelta"])
@pytest.mark.parametrize("model_class", REGISTRY.values())
def test_a_checkpoint_holds_all_that_training_needs(
    tmp_path: Path, model_class: type[Model[Any]], kind: str
) -> None:
    data = load_images(SAMPLE, prepare(compute()))
    settings = config(model_class, epochs=4, optimizer=kind)
    keep = f"Train/{model_class.losses[0]}"

    def fresh() -> tuple[Model[Any], list[torch.optim.Optimizer]]:
        model = initialise(model_class, settings, 0, CPU)
        return model, make_optimizers(model)

    def run(numbers: range, state: TrainingState | None = None) -> list[EpochResult]:
        epochs = []
        for result in fit(model, optimizers, data, 0, compute(), CPU, numbers):
            epochs.append(result)
            if state:
                state.add(result.epoch, result.means)
        return epochs

    model, optimizers = fresh()
    expected, whole = run(range(1, 5)), model.state_dict()

    writer = RecordWriter(tmp_path / ".runrecord" / "runs" / "run-1")
    writer.write(RunStarted("run-1", "train-ae", 0, "host", {}, {}))
    writer.write(Logged(1, 2, {"loss": 1.0}))
    kept = Checkpoints(tmp_path, {"params": {"lr": 1}})
    model, optimizers = fresh()
    state = TrainingState(model, optimizers, keep)
    run(range(1, 3), state)
    kept.save("run-1", 2, 2, state.state_dict())
    assert Checkpoints(tmp_path, {"params": {"lr": 2}}).latest() is None
    found = kept.latest()
    assert found is not None
    assert found.saved.epoch == 2
    model, optimizers = fresh()
    again = TrainingState(model, optimizers, keep)
    again.load_state_dict(found.saved.arrays)
    assert again.history == state.history
    assert [list(row) for row in again.history] == [list(row) for row in state.history]
    assert [result.steps for result in run(range(3, 5))] == [one.steps for one in expected[2:]]
    for key, value in whole.items():
        assert torch.equal(value, model.state_dict()[key])
    assert again.take_kept() == state.take_kept()
    for key, array in state.state_dict().items():
        if key.startswith(("model/", "kept/")):
            assert np.array_equal(again.state_dict()[key], array), key


def test_a_checkpoint_ahead_of_its_record_is_not_gone_on_with(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / ".runrecord" / "runs" / "run-1")
    writer.write(RunStarted("run-1", "train", 0, "host", {}, {}))
    kept = Checkpoints(tmp_path, {})
    kept.save("run-1", 1, 2, {"w": np.zeros(2)})
    assert kept.latest() is None, "the epoch is not in the record: it was lost with the power"
    writer.write(Logged(1, 1, {"loss": 1.0}))
    assert kept.latest() is not None
    writer.write(RunEnded(2, "FINISHED"))
    assert kept.latest() is None


class Walk:
    """What a small training changes: a place, and what gives its steps."""

    def __init__(self) -> None:
        self.place = np.zeros(3)
        self.random = np.random.Generator(np.random.MT19937(0))

    def state_dict(self) -> Arrays:
        twister = self.random.bit_generator.state["state"]
        return {"place": self.place, "key": twister["key"], "pos": np.array(twister["pos"])}

    def load_state_dict(self, arrays: Arrays) -> None:
        self.place = arrays["place"]
        twister = {"key": arrays["key"], "pos": int(arrays["pos"])}
        self.random.bit_generator.state = {"bit_generator": "MT19937", "state": twister}


@pytest.fixture
def small(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small DVC repository, which this process works in."""
    for name in ("stdout", "stderr"):  # a run changes both for good
        monkeypatch.setattr(sys, name, getattr(sys, name))
    return here


def walk(stop_in: int = 0) -> Arrays:
    """A run of six epochs, interrupted in the middle of one; what it ends with."""
    state = Walk()
    with start_run("train") as run:
        run.text("note", "before the first epoch")
        for epoch in run.epochs(6, state):
            steps = state.random.normal(size=(4, 3)) * run.params["lr"]
            state.place = state.place + steps.sum(axis=0)
            within = np.linalg.norm(steps, axis=1).tolist()
            run.log({"length": float(np.linalg.norm(state.place))}, within={"length": within})
            run.image("place", state.place.astype(np.uint8).reshape(1, 3))
            Path("model.bin").write_bytes(state.place.tobytes())
            run.model("model.bin")
            run.evaluation("walk", "model.bin", {"length": float(np.linalg.norm(state.place))})
            if epoch == stop_in:
                raise KeyboardInterrupt
            run.text("note", f"epoch {epoch}")
    return state.state_dict()


def interrupt_in(epoch: int) -> None:
    with pytest.raises(SystemExit) as stopped:
        walk(epoch)
    assert stopped.value.code == 130


def walks(repository: Path) -> list[Record]:
    """The records of the runs, the oldest first."""
    found = [Record(files_in(folder)) for folder in run_dirs(repository)]
    return sorted(found, key=lambda record: record.start.time)


def logged(record: Record) -> list[tuple[str, str, int, str]]:
    """Kind, title and step of all that a run logged, and what it was there; sorted."""
    found = []
    for event in record.events():
        match event:
            case Logged():
                for kind in ("metrics", "steps", "images", "texts"):
                    named = getattr(event, kind).items()
                    found += [(kind, title, event.step, str(value)) for title, value in named]
            case ModelSaved():
                found.append(("model", event.name, event.step, event.file.sha256))
            case ModelEvaluated():
                found.append((event.sha256, event.model, 0, str(event.metrics)))
    return sorted(found)


def assert_equal(first: Arrays, second: Arrays) -> None:
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name


@pytest.fixture
def whole(small: Path) -> Arrays:
    """What a run ends with that nobody stopped."""
    state = walk()
    assert checkpoints(Workspace(small)) == []
    return state


def test_epochs_go_on_to_the_same_arrays_and_the_same_record(
    small: Path, whole: Arrays, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt_in(3)
    (second,) = walks(small)[1:]
    assert second.end is not None
    assert second.end.status == "KILLED"
    interrupt_in(5)
    assert_equal(walk(), whole)
    first, second = walks(small)
    assert len(logged(first)) == 1 + 6 * 6
    assert logged(second) == logged(first), "each once, and the same"
    assert compare(first, second, 0).verdict == "bit-identical"
    assert second.end is not None
    assert second.end.status == "FINISHED"
    resumed = [event.epoch for event in second.events() if isinstance(event, Resumed)]
    assert resumed == [2, 4]
    said = capfd.readouterr().out
    assert [f"going on with {second.start.id} after epoch {n}" in said for n in (2, 4, 5)] == [
        *(True, True, False)
    ]
    assert files_in(small / "records/train").keys() == (second.contents.keys() - {"lock"})
    assert checkpoints(Workspace(small)) == []


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(
    small: Path, whole: Arrays, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt_in(5)
    newest = checkpoints(Workspace(small))[-1]
    assert newest.stem == "000004"
    newest.write_bytes(newest.read_bytes()[:100])
    assert_equal(walk(), whole)
    said = capfd.readouterr()
    assert f"{newest} is damaged" in said.err
    assert "after epoch 3" in said.out
    first, second = walks(small)
    assert logged(second) == logged(first)


def test_a_picture_that_is_damaged_since_costs_a_warning_and_itself(
    small: Path, whole: Arrays, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt_in(5)
    stopped = walks(small)[-1]
    folder = run_dir(small, stopped.start.id)
    next(folder.glob("images/*")).write_bytes(b"damaged")
    assert_equal(walk(), whole)
    said = capfd.readouterr()
    assert (
        said.err.count(f"{stopped.start.id} goes on, its record with damaged files: images/") == 1
    )
    assert "after epoch 4" in said.out
    first, second = walks(small)
    assert len(logged(second)) == len(logged(first)) - 1


def differing(numbers: Sequence[float], stop_in: int = 0, what: str = "value") -> None:
    """A run of three epochs that logs one of those numbers after the other, whatever came before.

    Args:
        numbers: taken and removed.
        stop_in: the epoch behind whose logging it is interrupted.
        what: is to be another each time.
    """
    state, rest = Walk(), iter(numbers)
    with start_run("train") as run:
        for epoch in run.epochs(3, state):
            one = next(rest)
            inside = [1.0, one if what == "within" else 2.0]
            run.log(
                {"loss": one if what == "value" else 0.5, "other": 1.0}, within={"loss": inside}
            )
            run.text("note", f"{one if what == 'text' else 'the same'}")
            if what == "model":
                Path("model.bin").write_bytes(np.float64(one).tobytes())
                run.model("model.bin")
            if epoch == stop_in:
                raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("value", "loss is not the same: 0.25 on record, 0.75 now"),
        ("within", "loss is not the same: 0.25 on record, 0.75 now"),
        ("text", "texts: note is not the same: "),
        ("model", "models: model is not the same: "),
    ],
)
def test_a_repeated_epoch_that_gives_other_numbers_is_said_once_and_on_record(
    small: Path, capfd: pytest.CaptureFixture[str], what: str, said: str
) -> None:
    with pytest.raises(SystemExit):
        differing([0.5, 0.25], 2, what)
    with pytest.raises(SystemExit):
        differing([0.75, 0.125], 3, what)
    err = capfd.readouterr().err
    assert err.count("epoch 2 was computed again after the stop") == 1
    assert said in err
    differing([0.875], 0, what)
    assert "computed again" not in capfd.readouterr().err, "it is on record by now"
    (record,) = walks(small)
    seen = view(record)
    assert said in seen.tags["resumed.differs"]
    assert [
        event.tags for event in record.events() if isinstance(event, Logged) and event.tags
    ] == [{"resumed.differs": seen.tags["resumed.differs"]}]
    first = {"value": (0.25, [1.0, 2.0]), "within": (0.5, [1.0, 0.25])}
    assert seen.series["loss"][2] == first.get(what, (0.5, [1.0, 2.0])), (
        "the record keeps the first"
    )


def test_a_repeated_epoch_that_gives_the_same_is_not_said(
    small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nan = float("nan")
    for numbers, stop_in in (([0.5, nan], 2), ([nan, 0.1], 3), ([0.1], 0)):
        with suppress(SystemExit):
            differing(numbers, stop_in, "model")
    assert "computed again" not in capfd.readouterr().err
    (record,) = walks(small)
    assert record.end is not None
    assert record.end.status == "FINISHED"
    assert "resumed.differs" not in view(record).tags


AFTER: dict[str, Callable[[Any], object]] = {
    "metric": lambda run: run.log({"loss": 1.0}),
    "tag": lambda run: run.tag(a="b"),
    "speed": lambda run: run.observe({"speed": 1.0}),
    "text": lambda run: run.text("a", "b"),
    "picture": lambda run: run.image("a", np.zeros((2, 2), np.uint8)),
    "file": lambda run: run.artifact("params.yaml"),
    "model": lambda run: run.model("params.yaml"),
    "evaluation": lambda run: run.evaluation("m", "params.yaml", {"a": 1.0}),
}


@pytest.mark.parametrize("what", AFTER)
@pytest.mark.parametrize("how", ["FINISHED", "FAILED", "KILLED"])
def test_nothing_is_logged_after_a_run_has_ended(small: Path, what: str, how: str) -> None:
    errors = {"FAILED": ValueError(), "KILLED": KeyboardInterrupt()}
    with suppress(ValueError, SystemExit), start_run("train") as run:
        run.log({"loss": 1.0})
        if how in errors:
            raise errors[how]
    folder = run_dir(small, run.id)
    before = {name: path.read_bytes() for name, path in files_in(folder).items()}
    with pytest.raises(UserError, match="the run has ended"):
        AFTER[what](run)
    record = Record(files_in(folder))
    assert {name: path.read_bytes() for name, path in files_in(folder).items()} == before
    assert record.end is not None
    assert record.end.status == how


@pytest.mark.parametrize(
    ("leave", "status"),
    [
        ([], "FINISHED"),
        ([0], "FINISHED"),
        ([None], "FINISHED"),
        ([1], "FAILED"),
        ([0.0], "FAILED"),
        (["a sentence"], "FAILED"),
    ],
)
def test_a_block_that_is_left_by_an_exit_ends_as_the_exit_status_says(
    small: Path, leave: list[Any], status: str
) -> None:
    def left_by_an_exit() -> None:
        with start_run("train") as run:
            run.log({"loss": 1.0})
            sys.exit(*leave)

    with pytest.raises(SystemExit) as left:
        left_by_an_exit()
    assert left.value.code == (leave[0] if leave else None)
    (record,) = walks(small)
    assert record.end is not None
    assert record.end.status == status
    assert (small / "records/train/run.json").exists() == (status == "FINISHED")


def test_values_within_a_step_need_the_metric_itself(
    small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left, start_run("train") as run:
        run.log({"other": 1.0}, within={"loss": [1.0, 2.0]})
    assert left.value.code == 2
    assert "'loss' has values within the step" in capfd.readouterr().err
    assert view(walks(small)[0]).series == {}


def test_another_param_begins_anew(
    small: Path, whole: Arrays, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt_in(3)
    (small / "params.yaml").write_text("lr: 2\n")
    other = walk()
    assert not np.array_equal(other["place"], whole["place"])
    said = capfd.readouterr().out
    assert "going on" not in said
    stopped = walks(small)[1].start.id
    assert f"epochs 1 to 2 of {stopped} are not gone on with: lr was 1, is 2\n" in said
    assert len(walks(small)) == 3
    (small / "params.yaml").write_text("lr: 1\n")
    assert_equal(walk(), whole)
    assert "after epoch 2" in capfd.readouterr().out
    assert len(walks(small)) == 3


@pytest.mark.parametrize(("epochs", "kept"), [(4, 4), (6, 3)])
def test_a_run_stopped_behind_its_loop_ends_with_the_same_model_at_the_same_step(
    epochs: int, kept: int, small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of four epochs; or of six, where the loop is left in the fourth: no checkpoint has that."""

    def four(stopped: bool = False) -> Arrays:
        state = Walk()
        with start_run("train") as run:
            for epoch in run.epochs(epochs, state):
                state.place = state.place + state.random.normal(size=3)
                run.log({"length": float(np.linalg.norm(state.place))})
                if epoch == 4 < epochs:
                    break
            if stopped:
                raise KeyboardInterrupt
            Path("model.bin").write_bytes(state.place.tobytes())
            run.model("model.bin")
        return state.state_dict()

    whole = four()
    assert checkpoints(Workspace(small)) == []
    with pytest.raises(SystemExit):
        four(stopped=True)
    assert int(checkpoints(Workspace(small))[-1].stem) == kept
    assert_equal(four(), whole)
    assert f"after epoch {kept}" in capfd.readouterr().out
    assert checkpoints(Workspace(small)) == []
    first, second = walks(small)
    assert logged(second) == logged(first)
    assert [event.step for event in second.events() if isinstance(event, ModelSaved)] == [4]


def test_only_one_loop_of_a_run_can_keep_its_state(
    small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    del small

    def two_loops() -> None:
        with start_run("train") as run:
            assert [*run.epochs(2, Walk()), *run.epochs(1)] == [1, 2, 1]
            next(run.epochs(1, Walk()))

    with pytest.raises(SystemExit) as stopped:
        two_loops()
    assert stopped.value.code == 2
    assert "one loop" in capfd.readouterr().err


def test_variables_that_change_no_number_do_not_end_a_training(
    small: Path, whole: Arrays, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    interrupt_in(3)
    for name in ("CUDA_VISIBLE_DEVICES", "TORCH_HOME", "TORCH_LOGS", "OMP_DISPLAY_ENV"):
        monkeypatch.setenv(name, "1")
    assert_equal(walk(), whole)
    assert "after epoch 2" in capfd.readouterr().out
    interrupt_in(3)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with (small / "src/code.py").open("a") as file:
        file.write("# one line more\n")
    walk()
    said = capfd.readouterr().out
    assert "are not gone on with: src/code.py is another, OMP_NUM_THREADS was not set, is 3" in said


@pytest.fixture
def growing(small: Path) -> Path:
    """The small repository, its stage with a number of epochs."""
    text = (small / "dvc.yaml").read_text()
    (small / "dvc.yaml").write_text(text.replace("[lr]", "[walk]"))
    return small


def grow(epochs: int, leave_in: int = 0, stop_in: int = 0) -> Arrays:
    """A run of so many epochs, left in one of them by itself; what it ends with."""
    Path("params.yaml").write_text(f"walk: {{lr: 1, epochs: {epochs}}}\n")
    state = Walk()
    with start_run("train", length="epochs") as run:
        run.text("plan", f"{run.params['walk.epochs']} epochs")
        for epoch in run.epochs(run.params["walk.epochs"], state):
            state.place = state.place + state.random.normal(size=3)
            run.log({"length": float(np.linalg.norm(state.place))}, within={"length": [1.0, 2.0]})
            run.image("place", state.place.astype(np.uint8).reshape(1, 3))
            run.observe({"speed": 1.0})
            Path("model.bin").write_bytes(state.place.tobytes())
            run.model("model.bin")
            if epoch == stop_in:
                raise KeyboardInterrupt
            if epoch == leave_in:
                break
        run.text("after", f"{epochs} epochs", step=0)
    return state.state_dict()


def kept(folder: Path) -> list[str]:
    """The epochs of all checkpoints."""
    return sorted(path.name for path in folder.glob(".runrecord/checkpoints/*/*/0*"))


def straight(folder: Path, epochs: int, leave_in: int = 0) -> tuple[Arrays, Record]:
    """A run of so many epochs that finds no checkpoint, and leaves none."""
    ends_with, record = grow(epochs, leave_in), walks(folder)[-1]
    shutil.rmtree(folder / ".runrecord" / "checkpoints")
    return ends_with, record


def test_a_longer_run_goes_on_from_where_a_shorter_one_ended(
    growing: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, expected = straight(growing, 9)
    ids: list[str] = []
    for epochs, origin in ((3, 0), (6, 3), (9, 6)):
        ends_with = grow(epochs)
        record = walks(growing)[-1]
        said = capfd.readouterr().out
        if origin:
            assert f"going on from {ids[-1]}, whose epochs 1 to {origin} this run has too" in said
            assert view(record).tags["continues"] == ids[-1]
        else:
            assert "going on" not in said
            assert "gone on" not in said
        ids.append(record.start.id)
        assert record.start.params["walk.epochs"] == epochs
        assert record.end is not None
        assert record.end.status == "FINISHED"
    assert_equal(ends_with, whole)
    assert len({*ids}) == 3
    assert logged(record) == logged(expected)
    assert compare(expected, record, 0).verdict == "bit-identical"
    assert min(event.time for event in record.events()) == record.start.time
    assert kept(growing) == ["000003.finished", "000006.finished", "000009.finished"]


def test_a_run_that_is_wanted_shorter_or_once_more_begins_anew(
    growing: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, _ = straight(growing, 4)
    grow(6)
    long = walks(growing)[-1].start.id
    capfd.readouterr()
    assert_equal(grow(4), whole)
    said = capfd.readouterr().out
    assert f"epochs 1 to 6 of {long} are not gone on with: only 4 are wanted\n" in said
    grow(6)
    said = capfd.readouterr().out
    assert "gone on with" not in said
    assert "going on from" in said, "4 epochs are done of 6"
    assert [event for event in walks(growing)[-1].events() if isinstance(event, Resumed)] == []
    grow(6)
    grow(6)
    counts = [len(view(record).series["length"]) for record in walks(growing)]
    assert counts == [4, 6, 4, 6, 6, 6]


def test_a_longer_run_goes_on_from_where_another_was_stopped(
    growing: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, expected = straight(growing, 9)
    shorter, _ = straight(growing, 6)
    with pytest.raises(SystemExit):
        grow(6, stop_in=5)
    stopped = walks(growing)[-1].start.id
    with pytest.raises(SystemExit):
        grow(9, stop_in=7)
    assert f"going on from {stopped}, whose epochs 1 to 4" in capfd.readouterr().out
    longer = walks(growing)[-1].start.id
    assert_equal(grow(9), whole)
    assert f"going on with {longer} after epoch 6" in capfd.readouterr().out
    record = walks(growing)[-1]
    assert record.start.id == longer
    assert logged(record) == logged(expected)
    assert_equal(grow(6), shorter)
    assert f"going on with {stopped} after epoch 4" in capfd.readouterr().out
    assert [record.start.id for record in walks(growing)][2:] == [stopped, longer]


def test_a_run_that_left_its_loop_leaves_it_there_again_where_it_is_wanted_longer(
    growing: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, expected = straight(growing, 9, leave_in=5)
    grow(6, leave_in=5)
    assert kept(growing) == ["000004.finished"]
    capfd.readouterr()
    assert_equal(grow(9, leave_in=5), whole)
    assert "whose epochs 1 to 4 this run has too" in capfd.readouterr().out
    assert logged(walks(growing)[-1]) == logged(expected)


def test_a_damaged_end_of_a_shorter_run_costs_its_epochs_alone(
    growing: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoint, or a picture of its record."""
    whole, _ = straight(growing, 4)
    grow(2)
    (last,) = growing.glob(".runrecord/checkpoints/*/*/*.finished")
    content = last.read_bytes()
    last.write_bytes(content[:100])
    assert_equal(grow(4), whole)
    assert "is damaged and set aside" in capfd.readouterr().err
    shutil.rmtree(growing / ".runrecord/checkpoints")
    grow(2)
    folder = run_dir(growing, walks(growing)[-1].start.id)
    for picture in folder.glob("images/*"):
        picture.unlink()
        picture.write_bytes(b"damaged")
    assert_equal(grow(4), whole)
    assert f"{folder.name} is not gone on with" in capfd.readouterr().err


def test_only_the_last_checkpoints_of_the_newest_finished_runs_stay(tmp_path: Path) -> None:
    for number in range(9):
        run = new_run(run_dir(tmp_path, f"run-{number}"), id=f"run-{number}")
        mine = Checkpoints(tmp_path, {"params": {"lr": number}}, {"epochs": 2})
        for epoch in (1, 2):
            run.log({"a": 1.0}, epoch)
            mine.save(run.id, epoch, 1 + epoch, {"w": np.zeros(1)}, 1)
        assert len(folders_of(tmp_path, run.id)) == 1
        end_run(run_dir(tmp_path, run.id), status="KILLED" if number == 3 else "FINISHED")
        if number != 3:
            mine.remove(run.id)
    stopped = [("run-3", f"00000{epoch}.safetensors") for epoch in (1, 2)]
    finished = [(f"run-{number}", "000002.finished") for number in range(4, 9)]
    left = sorted((path.parent.name, path.name) for path in tmp_path.rglob("00*"))
    assert left == stopped + finished


def test_abandoned_checkpoints_do_not_pile_up(tmp_path: Path) -> None:
    for number in range(9):
        name = f"run-{number}"
        writer = RecordWriter(tmp_path / ".runrecord" / "runs" / name)
        writer.write(RunStarted(name, "train-ae", 0, "host", {}, {}))
        if number == 8:
            writer.write(RunEnded(1, "FINISHED"))
        folder = tmp_path / ".runrecord" / "checkpoints" / f"identity-{number}" / f"run-{number}"
        folder.mkdir(parents=True)
        if number != 7:
            (folder / "000001.safetensors").touch()
        os.utime(folder, (number, number))
    Checkpoints(tmp_path, {}).remove("run-x")
    left = {path.name for path in (tmp_path / ".runrecord" / "checkpoints").glob("*/*")}
    assert left == {f"run-{number}" for number in range(2, 7)}, "the last five that may go on"


def stopped_at(root: Path, number: int, stage: str = "train", **tags: str) -> str:
    """A run that was stopped behind its first epoch and left a checkpoint; its id."""
    run_id = f"{stage}-{number}-{'-'.join(tags.values())}"
    run = new_run(run_dir(root, run_id), id=run_id, stage=stage, tags=tags)
    identity = {"stage": {"name": stage}, "params": {"lr": run_id}}
    Checkpoints(root, identity).save(run_id, 1, 1, {"w": np.zeros(1)})
    run.log({"loss": 1.0}, 1)
    end_run(run_dir(root, run_id), status="KILLED")
    (folder,) = folders_of(root, run_id)
    os.utime(folder, (number, number))
    return run_id


def test_neither_another_stage_nor_another_trial_removes_a_checkpoint(tmp_path: Path) -> None:
    trials = [stopped_at(tmp_path, n, **{"study": "s", "study.trial": str(n)}) for n in range(12)]
    others = [stopped_at(tmp_path, n, "other") for n in range(8)]
    again = [stopped_at(tmp_path, 50 + n, **{"study": "s", "study.trial": "3"}) for n in range(6)]
    Checkpoints(tmp_path, {}).remove("any")
    left = {path.name for path in (tmp_path / ".runrecord/checkpoints").glob("*/*")}
    assert left == {*trials[:3], *trials[4:], *others[3:], *again[1:]}, "five of each are kept"


def test_finished_runs_of_another_stage_remove_no_checkpoint(tmp_path: Path) -> None:
    for number in range(7):
        for stage in ("train", "other"):
            run_id = f"{stage}-{number}"
            new_run(run_dir(tmp_path, run_id), id=run_id, stage=stage)
            identity: Identity = {"stage": {"name": stage}, "params": {"lr": number}}
            mine = Checkpoints(tmp_path, identity, {"epochs": 1})
            mine.save(run_id, 1, 1, {"w": np.zeros(1)})
            end_run(run_dir(tmp_path, run_id))
            mine.remove(run_id)
            os.utime(folders_of(tmp_path, run_id)[0], (number, number))
    Checkpoints(tmp_path, {}).remove("any")
    left = {path.name for path in (tmp_path / ".runrecord/checkpoints").glob("*/*")}
    assert left == {f"{stage}-{n}" for stage in ("train", "other") for n in range(2, 7)}


def test_nothing_goes_on_from_a_run_that_its_study_ended(
    small: Path, whole: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = tmp_path / "why"
    why.write_text("worse than most")
    monkeypatch.setenv("RUNRECORD_WHY", str(why))
    interrupt_in(3)
    pruned = walks(small)[-1]
    assert view(pruned).tags["study.pruned"] == "worse than most"
    assert checkpoints(Workspace(small)) == []
    monkeypatch.delenv("RUNRECORD_WHY")
    interrupt_in(3)
    stopped = walks(small)[-1]
    assert stopped.start.id != pruned.start.id
    folder = run_dir(small, stopped.start.id)
    writer = RecordWriter(folder, stopped.size)
    writer.write(Logged(9, 2, tags={"study.pruned": "worse"}))
    assert_equal(walk(), whole)
    assert walks(small)[-1].start.id not in (pruned.start.id, stopped.start.id)


SEVERAL = "stages: {train: {cmd: [python a.py, python b.py], params: [lr]}}\n"
OTHERWISE: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "the program of a stage of several": (
        lambda patch: patch.setattr(sys, "argv", ["b.py"]),
        "the program was a.py, is b.py",
    ),
    "Python": (
        lambda patch: patch.setattr(platform, "python_version_tuple", lambda: ("3", "99", "0")),
        f"Python was 3.{sys.version_info.minor}, is 3.99",
    ),
}


def short_walk(device: str, stop_in: int = 0) -> int:
    """A run of three epochs on a device; the first epoch that it computes."""
    state, first = Walk(), 0
    with start_run("train", device=device) as run:
        for epoch in run.epochs(3, state):
            first = first or epoch
            state.place = state.place + state.random.normal(size=3)
            run.log({"length": float(np.linalg.norm(state.place))})
            if epoch == stop_in:
                raise KeyboardInterrupt
    return first


@pytest.mark.parametrize("name", [*OTHERWISE, "device", "nothing"])
def test_a_run_goes_on_only_where_all_that_changes_numbers_is_as_it_was(
    small: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (small / "dvc.yaml").write_text(SEVERAL)
    monkeypatch.setattr(sys, "argv", ["a.py"])
    with pytest.raises(SystemExit):
        short_walk("one GPU", 3)
    change, said = OTHERWISE.get(name, (lambda _: None, "the device was one GPU, is another"))
    change(monkeypatch)
    first = short_walk("another" if name == "device" else "one GPU")
    out = capfd.readouterr().out
    if name == "nothing":
        assert first == 3
        assert len(walks(small)) == 1
    else:
        assert first == 1
        assert said in out
        assert len(walks(small)) == 2


def test_a_look_at_a_stopped_run_does_not_keep_it_from_going_on(
    small: Path, whole: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a `sync` that reads a long record; the process that ran is known to be dead."""
    interrupt_in(3)
    stopped = walks(small)[-1].start.id
    place = run_dir(small, stopped) / ".place"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"process": str(2**22 + 1)}))
    looker = lock_of(run_dir(small, stopped))
    looker.acquire()
    waited = []
    real = FileLock.acquire

    def acquire(lock: FileLock, *arguments: Any, **named: Any) -> Any:
        """The look ends once somebody has waited for it in vain."""
        try:
            return real(lock, *arguments, **named)
        except Timeout:
            if named.get("timeout"):
                waited.append(lock)
                looker.release()
            raise

    monkeypatch.setattr(FileLock, "acquire", acquire)
    assert_equal(walk(), whole)
    assert len(waited) == 1
    assert walks(small)[-1].start.id == stopped
    assert len(walks(small)) == 2


def test_several_runs_of_a_stage_are_numbered_and_the_sealed_one_is_named(
    small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for fold in range(3):
        with start_run("train") as run:
            run.log({"fold": float(fold)})
    first, second, third = walks(small)
    assert [record.start.number for record in (first, second, third)] == [1, 2, 3]
    said = capfd.readouterr().err.splitlines()
    notes = [line for line in said if line.startswith("note: records/train")]
    assert notes == [
        f"note: records/train holds {one.start.id} now, run {number} of its stage; "
        f"{before.start.id} is in the run store alone."
        for number, one, before in ((2, second, first), (3, third, second))
    ]
    assert Record(files_in(small / "records/train")).start.id == third.start.id
    with start_run("other") as run:
        pass
    assert Record(files_in(run_dir(small, run.id))).start.number == 1, "of its own stage"


def test_runs_of_other_processes_are_not_counted(small: Path) -> None:
    new_run(run_dir(small, "before"), id="before", stage="train")
    place = run_dir(small, "before") / ".place"
    place.write_text(json.dumps(here() | {"process": "1"}))
    with start_run("train") as run:
        pass
    assert Record(files_in(run_dir(small, run.id))).start.number == 1


def test_a_record_from_before_runs_were_numbered_is_the_first(tmp_path: Path) -> None:
    new_run(tmp_path / "record")
    start = json.loads((tmp_path / "record/run.json").read_text())
    assert start.pop("number") == 1
    (tmp_path / "record/run.json").write_text(json.dumps(start))
    assert Record(files_in(tmp_path / "record")).start.number == 1


RANKS = """
import os
import sys
from pathlib import Path
import numpy as np
from runrecord import start_run

class Walk:
    place = np.zeros(1)

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, arrays):
        self.place = arrays["place"]

walk = Walk()
with start_run("train") as run:
    for epoch in run.epochs(4, walk):
        if len(sys.argv) > 1:
            print(f"it computes epoch {epoch}\\nbegun in it", flush=True)
            sys.stdin.readline()
            sys.argv.pop()
        walk.place = walk.place + epoch
        own = sum(int(os.environ.get(name, 0)) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
        run.log({"place": float(walk.place[0]) + own}, within={"place": [1.0, 2.0]})
        run.text("note", "a text")
        run.artifact("params.yaml")
        if epoch == 3 and Path("stop").exists():
            raise KeyboardInterrupt
    run.evaluation("walk", "params.yaml", {"place": 1.0})
    try:
        run.log({"a": "no number"})
    except Exception as error:
        print("refused:", type(error).__name__)
"""


def all_at_once(folder: Path, environments: Sequence[dict[str, str]]) -> list[str]:
    """What processes print that are all in their run before one goes on; all end well."""
    workspace = Workspace(folder)
    said = []
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                workspace.start("python", "ranks.py", "wait", **RECORD_ONLY, **environment)
            )
            for environment in environments
        ]
        for process in processes:
            assert process.stdout is not None
            lines = takewhile(lambda line: not line.startswith("begun in"), process.stdout)
            said.append("".join(lines))
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for number, process in enumerate(processes):
            output, _ = process.communicate()
            said[number] += output
            assert process.returncode == 0, said[number]
    return said


def test_of_four_ranks_the_first_records_and_all_go_on_from_its_checkpoint(small: Path) -> None:
    (small / "ranks.py").write_text(RANKS)
    (small / "stop").touch()
    Workspace(small).run("python", "ranks.py", status=130, environment=RECORD_ONLY, RANK="0")
    (small / "stop").unlink()
    assert [path.stem for path in checkpoints(Workspace(small))] == ["000001", "000002"]
    variables = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "RANK")
    said = all_at_once(small, [{name: str(n)} for n, name in enumerate(variables)])
    for number, text in enumerate(said):
        assert "it computes epoch 3\n" in text
        assert text.count("records nothing, rank 0 does; set RANK=0") == (number > 0)
        assert "refused: UserError" in text
        assert "computed again" not in text, "a rank's own numbers may differ from the first's"
    (record,) = walks(small)
    assert record.end is not None
    assert record.end.status == "FINISHED"
    assert list(view(record).series["place"]) == [1, 2, 3, 4]
    assert Record(files_in(small / "records/train")).start.id == record.start.id


def test_four_processes_without_ranks_all_seal_and_the_last_one_stays(small: Path) -> None:
    (small / "ranks.py").write_text(RANKS)
    said = all_at_once(small, [{}] * 4)
    found = walks(small)
    assert [record.end and record.end.status for record in found] == ["FINISHED"] * 4
    sealed = Record(files_in(small / "records/train"))
    assert sealed.start.id in {record.start.id for record in found}
    assert [*sealed.events()] == [*Record(files_in(run_dir(small, sealed.start.id))).events()]
    assert sealed.damaged == {}
    assert [path.name for path in (small / "records").iterdir()] == ["train"]
    assert sum(text.count("is in the run store alone") for text in said) == 3


def test_a_trial_of_a_study_is_no_rank_of_slurms() -> None:
    assert rank_in({"SLURM_PROCID": "3"}) == 3
    assert rank_in({"SLURM_PROCID": "3", "RUNRECORD_WHY": "/why"}) == 0
    assert rank_in({"SLURM_PROCID": "3", "RANK": "0"}) == 0
    assert rank_in({"LOCAL_RANK": "2"}) == 2
    assert rank_in({"RANK": "", "SLURM_PROCID": "x"}) == 0
    assert rank_in({}) == 0


def test_what_is_logged_twice_in_an_epoch_is_on_record_twice_after_a_stop_between(
    toy: Workspace,
) -> None:
    script = toy.path / "train.py"
    once = "        run.image("
    twice = (
        "        run.log({'Twice': 1.0})\n"
        "        if os.environ.get('STOP_IN') == str(epoch):\n"
        "            print(f'between {epoch}', flush=True)\n"
        "            sys.stdin.read()\n"
        "        run.log({'Twice': 1.0})\n"
    )
    script.write_text(script.read_text().replace(once, twice + once))
    with toy.start(*TOY_TRAIN, **RECORD_ONLY, STOP_IN="3") as process:
        assert process.stdout is not None
        read_until(process.stdout, "between 3")
        process.kill()
        process.stdout.read()
    toy.run(*TOY_TRAIN, environment=RECORD_ONLY)
    (folder,) = spool(toy)
    events = [*Record(files_in(folder)).events()]
    logged = [
        event.step for event in events if isinstance(event, Logged) and "Twice" in event.metrics
    ]
    assert sorted(logged) == sorted([*range(1, 9)] * 2)


def stopped_in(toy: Workspace, more: str, epoch: int) -> None:
    """Train with more lines an epoch, killed once in that epoch after them, and to the end then."""
    script = toy.path / "train.py"
    once = "        run.image("
    lines = "".join(f"        {line}\n" for line in more.splitlines())
    stop = (
        "        if os.environ.get('STOP_IN') == str(epoch):\n"
        "            print('here', flush=True)\n            sys.stdin.read()\n"
    )
    script.write_text(script.read_text().replace(once, lines + stop + once))
    with toy.start(*TOY_TRAIN, **RECORD_ONLY, STOP_IN=str(epoch)) as process:
        assert process.stdout is not None
        read_until(process.stdout, "here")
        process.kill()
        process.stdout.read()


@pytest.mark.slow
def test_what_every_epoch_logs_under_one_title_and_step_is_on_record_as_often(
    toy: Workspace,
) -> None:
    more = "run.log({'best': float(epoch)}, step=0)\nrun.evaluation('m', 'numbers.txt', {'x': 1.0})"
    stopped_in(toy, more, 4)
    said = toy.run(*TOY_TRAIN, environment=RECORD_ONLY)
    assert "going on with" in said
    assert "warning" not in said
    events = [*Record(files_in(spool(toy)[0])).events()]
    best = [
        event.metrics["best"]
        for event in events
        if isinstance(event, Logged) and "best" in event.metrics
    ]
    assert best == [*range(1, 9)]
    assert len([event for event in events if isinstance(event, ModelEvaluated)]) == 8
    assert IDENTICAL in verify(toy, spool(toy)[0].name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "n = len(os.environ.get('STOP_IN', ''))\n"
            "run.evaluation('m', 'numbers.txt', {'x': 1.0}, {'c': [(1, n)]})",
            "evaluated: m ",
        ),
        (
            "if 'STOP_IN' in os.environ: run.text('gone', 'x')",
            "texts: gone of epoch 4 is on record",
        ),
    ],
    ids=["a curve is another", "a text is not logged again"],
)
def test_a_repeated_epoch_that_logs_otherwise_is_said(toy: Workspace, more: str, said: str) -> None:
    stopped_in(toy, more, 4)
    assert said in toy.run(*TOY_TRAIN, environment=RECORD_ONLY)
    assert '"resumed.differs"' in (spool(toy)[0] / "events.jsonl").read_text()
