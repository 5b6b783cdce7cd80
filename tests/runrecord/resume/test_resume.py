"""A training that was stopped goes on in the same run, and ends with the same bytes."""

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Run
from mlflow_views import assert_shown, event_files, points_in, runs
from workspaces import (
    TOY_TRAIN,
    Workspace,
    read_until,
    spool,
    wait_until,
)

from records import end_run, ending, new_run, recorded
from runrecord import start_run
from runrecord.cli.upkeep import reap
from runrecord.record.events import (
    Dataset,
    Logged,
    ModelSaved,
    Resumed,
    RunEnded,
    RunStarted,
)
from runrecord.record.reader import Record, files_in, view
from runrecord.record.writer import RecordWriter
from runrecord.resume.checkpoints import Arrays, Checkpoints, folders_of
from runrecord.resume.identity import Identity
from runrecord.store.runs import is_followed, is_running, lock_of, run_dir
from runrecord.verify.compare import OUT, STATUS, Place, Value, compare, results_in

TOY_OUTS = ("model.bin", "metrics.json")


@pytest.fixture(autouse=True)
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one process begins a run several times, it is as a cell that is run again."""
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)


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

    def shown_as(status: str) -> Run:
        assert_shown(toy, folder)
        (run,) = runs(toy)
        assert run.info.status == status
        return run

    with toy.start(*TOY_TRAIN, PAUSE_AFTER="3") as process:
        wait_until(lambda: points_in(toy.path / "mlflow.db") == 3)
        process.kill()
    (folder,) = spool(toy)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(toy.path)
    wait_until(lambda: not is_followed(folder))  # it closes the run as well, and may be at it
    reap()
    assert "without a trace" in shown_as("KILLED").data.tags["error"]
    with toy.start(*TOY_TRAIN, PAUSE_AFTER="6") as process:
        assert process.stdout is not None
        read_until(process.stdout, f"resuming {folder.name} after epoch 2")
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
    shown_as("KILLED")
    assert f"resuming {folder.name} after epoch 5" in toy.run(*TOY_TRAIN)
    assert [toy.read(name) for name in TOY_OUTS] == undisturbed
    assert spool(toy) == [folder]
    run = shown_as("FINISHED")
    assert "error" not in run.data.tags
    steps = [point.step for point in event_files(toy, run).Scalars("Length")]
    assert steps == list(range(4 * 8))
    assert checkpoints(toy) == []


def test_a_checkpoint_ahead_of_its_record_is_not_gone_on_with(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / ".runrecord" / "runs" / "run-1")
    writer.write(RunStarted("run-1", "train", 0, "host", {}, {}))
    kept = Checkpoints(tmp_path, {})
    kept.save("run-1", 1, 2, {"w": np.zeros(2)}, 0, {})
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


def said_by(capfd: pytest.CaptureFixture[str]) -> str:
    return "".join(capfd.readouterr())


def logged(record: Record) -> list[tuple[Place, Value]]:
    """All that a run logged, sorted."""
    found = results_in(record.events()).items()
    return sorted(
        (place, one) for place, values in found for one in values if place.kind not in (OUT, STATUS)
    )


def assert_equal(first: Arrays, second: Arrays) -> None:
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name


@pytest.fixture
def whole(here: Path) -> Arrays:
    """What a run ends with that nobody stopped."""
    state = walk()
    assert checkpoints(Workspace(here)) == []
    return state


def test_epochs_go_on_to_the_same_arrays_and_the_same_record(
    here: Path, whole: Arrays, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt_in(3)
    assert ending(recorded(here)[1]) == "KILLED"
    interrupt_in(5)
    assert_equal(walk(), whole)
    first, second = recorded(here)
    assert logged(second) == logged(first), "each once, and the same"
    assert compare(first, second, 0).verdict == "bit-identical"
    assert ending(second) == "FINISHED"
    resumed = [event.epoch for event in second.events() if isinstance(event, Resumed)]
    assert resumed == [2, 4]
    said = said_by(capfd)
    assert [f"resuming {second.start.id} after epoch {n}" in said for n in (2, 4, 5)] == [
        *(True, True, False)
    ]
    assert files_in(here / "records/train").keys() == (second.contents.keys() - {"lock"})
    assert checkpoints(Workspace(here)) == []


def damage_a_checkpoint(repository: Path) -> None:
    newest = checkpoints(Workspace(repository))[-1]
    newest.write_bytes(newest.read_bytes()[:100])


def damage_a_picture(repository: Path) -> None:
    folder = run_dir(repository, recorded(repository)[-1].start.id)
    next(folder.glob("images/*")).write_bytes(b"damaged")


@pytest.mark.parametrize(
    ("damage", "said", "epoch", "lost"),
    [
        (damage_a_checkpoint, "000004.safetensors is damaged and set aside", 3, 0),
        (damage_a_picture, "resumes without damaged files of its record: images/", 4, 1),
    ],
)
def test_damage_costs_a_warning_and_what_is_damaged(
    here: Path,
    whole: Arrays,
    capfd: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    said: str,
    epoch: int,
    lost: int,
) -> None:
    interrupt_in(5)
    damage(here)
    assert_equal(walk(), whole)
    text = said_by(capfd)
    assert text.count(said) == 1
    assert f"after epoch {epoch}" in text
    first, second = recorded(here)
    assert len(logged(second)) == len(logged(first)) - lost
    assert lost or logged(second) == logged(first)


def differing(numbers: Sequence[float], stop_in: int = 0, what: str = "value") -> None:
    """A run of three epochs that logs one of those numbers after the other, whatever came before.

    `what` is another each time. The run is interrupted behind the logging of epoch `stop_in`.
    """
    state, rest = Walk(), iter(numbers)
    with start_run("train") as run:
        for epoch in run.epochs(3, state):
            one = next(rest)
            inside = [1.0, one if what == "within" else 2.0]
            value = one if what == "value" else 0.5
            run.log({"loss": value, "other": 1.0}, within={"loss": inside})
            run.text("note", f"{one if what == 'text' else 'the same'}")
            if what == "curve":
                run.evaluation("m", "params.yaml", {"x": 1.0}, {"c": [(1, one)]})
            if what == "gone" and epoch == 2 and one == 0.25:
                run.text("gone", "x")
            if epoch == stop_in:
                raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("value", "loss differs: 0.25 on record, 0.75 now"),
        ("within", "loss differs: 0.25 on record, 0.75 now"),
        ("text", "texts: note differs: "),
        ("curve", "c [(1, 0.25)] on record, c [(1, 0.75)] now"),
    ],
)
def test_a_repeated_epoch_that_gives_other_numbers_is_said_once_and_on_record(
    here: Path, capfd: pytest.CaptureFixture[str], what: str, said: str
) -> None:
    with pytest.raises(SystemExit):
        differing([0.5, 0.25], 2, what)
    with pytest.raises(SystemExit):
        differing([0.75, 0.125], 3, what)
    err = said_by(capfd)
    assert err.count(" was computed again after the stop") == 1
    assert said in err
    differing([0.875], 0, what)
    assert "computed again" not in said_by(capfd), "it is on record by now"
    (record,) = recorded(here)
    seen = view(record)
    (tags,) = (one.tags for one in record.events() if isinstance(one, Logged) and one.tags)
    assert said in tags["resumed.differs"]
    if what == "value":
        assert seen.series["loss"][2] == (0.25, [1.0, 2.0]), "the record keeps the first"


def test_what_a_repeated_epoch_does_not_log_again_is_said(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        differing([0.5, 0.25], 2, "gone")
    differing([0.75, 0.125], 0, "gone")
    said = "texts: gone of epoch 2 was logged before the stop, and not again after it"
    assert said in said_by(capfd)
    (record,) = recorded(here)
    assert view(record).tags["resumed.differs"] == said


def test_a_repeated_epoch_that_gives_the_same_is_not_said(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nan = float("nan")
    for numbers, stop_in in (([0.5, nan], 2), ([nan, 0.1], 3), ([0.1], 0)):
        with suppress(SystemExit):
            differing(numbers, stop_in)
    assert "computed again" not in said_by(capfd)
    (record,) = recorded(here)
    assert ending(record) == "FINISHED"
    assert "resumed.differs" not in view(record).tags


def test_another_param_begins_anew(
    here: Path, whole: Arrays, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt_in(3)
    (here / "params.yaml").write_text("lr: 2\n")
    assert not np.array_equal(walk()["place"], whole["place"])
    said = said_by(capfd)
    assert "going on" not in said
    stopped = recorded(here)[1].start.id
    assert f"not resuming {stopped} (2 epochs): lr changed from 1 to 2\n" in said
    (here / "params.yaml").write_text("lr: 1\n")
    assert_equal(walk(), whole)
    assert "after epoch 2" in said_by(capfd)
    assert len(recorded(here)) == 3


def test_another_digest_of_the_data_set_begins_anew(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The stage may read it without naming it among its deps."""
    seen = list[int]()
    for digest, stop_in in (("a", 2), ("b", 2), ("b", 0)):
        with suppress(SystemExit), start_run("train", dataset=Dataset("set", digest, "")) as run:
            for epoch in run.epochs(3, Walk()):
                seen.append(epoch)
                if epoch == stop_in:
                    raise KeyboardInterrupt
    assert seen == [1, 2, 1, 2, 2, 3]
    assert len(recorded(here)) == 2
    assert "(1 epoch): set changed from a to b\n" in said_by(capfd)


def test_what_a_run_logged_past_a_lost_checkpoint_is_logged_once_however_often_it_stops(
    here: Path,
) -> None:
    def stop_in(epoch: int) -> None:
        with suppress(SystemExit), start_run("train") as run:
            for at in run.epochs(5, Walk()):
                run.log({"one": at})
                if at == epoch:
                    raise KeyboardInterrupt

    stop_in(4)
    max((here / ".runrecord/checkpoints").rglob("*.safetensors")).unlink()
    stop_in(3)
    stop_in(4)
    stop_in(0)
    (record,) = recorded(here)
    assert [(at.step, value) for at, value in logged(record)] == [(n, n) for n in range(1, 6)]


@pytest.mark.parametrize(("epochs", "kept"), [(4, 4), (6, 3)])
def test_a_run_stopped_behind_its_loop_ends_with_the_same_model_at_the_same_step(
    epochs: int, kept: int, here: Path, capfd: pytest.CaptureFixture[str]
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
    assert checkpoints(Workspace(here)) == []
    with pytest.raises(SystemExit):
        four(stopped=True)
    assert int(checkpoints(Workspace(here))[-1].stem) == kept
    assert_equal(four(), whole)
    assert f"after epoch {kept}" in said_by(capfd)
    assert checkpoints(Workspace(here)) == []
    first, second = recorded(here)
    assert logged(second) == logged(first)
    assert [event.step for event in second.events() if isinstance(event, ModelSaved)] == [4]


@pytest.fixture
def growing(here: Path) -> Path:
    """The small repository, its stage with a number of epochs."""
    text = (here / "dvc.yaml").read_text()
    (here / "dvc.yaml").write_text(text.replace("[lr]", "[walk]"))
    return here


def grow(epochs: int, stop_in: int = 0) -> Arrays:
    """A run of so many epochs, stopped in one of them; what it ends with."""
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
        run.text("after", f"{epochs} epochs", step=0)
    return state.state_dict()


def kept(folder: Path) -> list[str]:
    """The epochs of all checkpoints."""
    return sorted(path.name for path in folder.glob(".runrecord/checkpoints/*/*/0*"))


def straight(folder: Path, epochs: int) -> tuple[Arrays, Record]:
    """A run of so many epochs that finds no checkpoint, and leaves none."""
    ends_with, record = grow(epochs), recorded(folder)[-1]
    shutil.rmtree(folder / ".runrecord" / "checkpoints")
    return ends_with, record


def test_a_longer_run_goes_on_from_where_a_shorter_one_ended(
    growing: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, expected = straight(growing, 9)
    ids: list[str] = []
    for epochs, origin in ((3, 0), (6, 3), (9, 6)):
        ends_with = grow(epochs)
        record = recorded(growing)[-1]
        said = said_by(capfd)
        if origin:
            assert f"continuing {ids[-1]}: this run has its epochs 1 to {origin}" in said
            assert view(record).tags["continues"] == ids[-1]
        else:
            assert "going on" not in said
            assert "not resuming" not in said
        ids.append(record.start.id)
        assert record.start.params["walk.epochs"] == epochs
        assert ending(record) == "FINISHED"
    assert_equal(ends_with, whole)
    assert len({*ids}) == 3
    assert logged(record) == logged(expected)
    assert compare(expected, record, 0).verdict == "bit-identical"
    assert min(event.time for event in record.events()) == record.start.time
    assert kept(growing) == ["000003.safetensors", "000006.safetensors", "000009.safetensors"]


def test_a_run_that_is_wanted_shorter_or_once_more_begins_anew(
    growing: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, _ = straight(growing, 4)
    grow(6)
    long = recorded(growing)[-1].start.id
    capfd.readouterr()
    assert_equal(grow(4), whole)
    said = said_by(capfd)
    assert f"not resuming {long} (6 epochs): only 4 are wanted\n" in said
    grow(6)
    said = said_by(capfd)
    assert "not resuming" not in said
    assert "continuing " in said, "4 epochs are done of 6"
    assert [event for event in recorded(growing)[-1].events() if isinstance(event, Resumed)] == []
    grow(6)
    grow(6)
    counts = [len(view(record).series["length"]) for record in recorded(growing)]
    assert counts == [4, 6, 4, 6, 6, 6]


def test_a_longer_run_goes_on_from_where_another_was_stopped(
    growing: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, expected = straight(growing, 9)
    shorter, _ = straight(growing, 6)
    with pytest.raises(SystemExit):
        grow(6, stop_in=5)
    stopped = recorded(growing)[-1].start.id
    with pytest.raises(SystemExit):
        grow(9, stop_in=7)
    assert f"continuing {stopped}: this run has its epochs 1 to 4" in said_by(capfd)
    longer = recorded(growing)[-1].start.id
    assert_equal(grow(9), whole)
    assert f"resuming {longer} after epoch 6" in said_by(capfd)
    record = recorded(growing)[-1]
    assert record.start.id == longer
    assert logged(record) == logged(expected)
    assert_equal(grow(6), shorter)
    assert f"resuming {stopped} after epoch 4" in said_by(capfd)
    assert [record.start.id for record in recorded(growing)][2:] == [stopped, longer]


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        ("images", "not resuming {} (2 epochs): its record has damaged"),
        ("texts", "continuing {}"),  # logged before and after the epochs
    ],
)
def test_damage_in_a_shorter_run_costs_its_epochs_where_it_is_theirs(
    damaged: str, said: str, growing: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, _ = straight(growing, 4)
    grow(2)
    folder = run_dir(growing, recorded(growing)[-1].start.id)
    for file in [*folder.glob(f"{damaged}/*")]:
        file.unlink()
        file.write_bytes(b"damaged")
    assert_equal(grow(4), whole)
    assert said.format(folder.name) in said_by(capfd)


def left_by(
    root: Path, number: int, stage: str = "train", status: str = "KILLED", **tags: str
) -> str:
    """A run of two epochs that ended so, with what it left behind; its id."""
    run_id = "-".join((stage, str(number), *tags.values()))
    folder = run_dir(root, run_id)
    run = new_run(folder, id=run_id, stage=stage, tags=tags)
    identity: Identity = {"stage": {"name": stage}, "params": {"lr": run_id}}
    mine = Checkpoints(root, identity, {"epochs": 2})
    for epoch in (1, 2):
        mine.save(run_id, epoch, epoch, {"w": np.zeros(1)}, 0, {})
        run.log({"loss": 1.0}, epoch)
    (kept,) = folders_of(root, run_id)
    if status:
        end_run(folder, status=status)
    if status == "FINISHED":
        mine.remove(run_id)
        assert [path.name for path in kept.glob("0*")] == ["000002.safetensors"]
    os.utime(kept, (number, number))
    return run_id


def test_of_each_stage_and_trial_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    trials = [left_by(tmp_path, n, **{"study": "s", "study.trial": str(n)}) for n in range(12)]
    again = [left_by(tmp_path, 50 + n, **{"study": "s", "study.trial": "3"}) for n in range(6)]
    others = [left_by(tmp_path, n, "other") for n in range(8)]
    done = [left_by(tmp_path, n, stage, "FINISHED") for stage in "ab" for n in range(20, 27)]
    cut_off = [left_by(tmp_path, n, "cut-off", status="") for n in range(7)]
    shutil.rmtree(run_dir(tmp_path, cut_off[6]))
    (folder,) = folders_of(tmp_path, cut_off[5])
    for path in folder.glob("0*"):
        path.unlink()
    Checkpoints(tmp_path, {}).remove("any")
    left = {path.name for path in (tmp_path / ".runrecord/checkpoints").glob("*/*")}
    wanted = {*trials[:3], *trials[4:], *again[1:], *others[3:], *cut_off[:5]}
    assert left == {*wanted, *done[2:7], *done[9:]}, "five of each, if they can be resumed"
    kept = (tmp_path / ".runrecord/checkpoints").rglob("0*.safetensors")
    assert len([*kept]) == 2 * len(wanted) + 10


def test_nothing_goes_on_from_a_run_that_its_study_ended(
    here: Path, whole: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = tmp_path / "why"
    why.write_text("worse than most")
    monkeypatch.setenv("RUNRECORD_WHY", str(why))
    interrupt_in(3)
    pruned = recorded(here)[-1]
    assert view(pruned).tags["study.pruned"] == "worse than most"
    assert checkpoints(Workspace(here)) == []
    monkeypatch.delenv("RUNRECORD_WHY")
    interrupt_in(3)
    stopped = recorded(here)[-1]
    assert stopped.start.id != pruned.start.id
    folder = run_dir(here, stopped.start.id)
    writer = RecordWriter(folder, stopped.size)
    writer.write(Logged(9, 2, tags={"study.pruned": "worse"}))
    assert_equal(walk(), whole)
    assert recorded(here)[-1].start.id not in (pruned.start.id, stopped.start.id)


SEVERAL = "stages: {train: {cmd: [python a.py, python b.py], params: [lr], deps: [src/code.py]}}\n"
Patch = pytest.MonkeyPatch
OTHERWISE: dict[str, tuple[Callable[[Patch], object], str]] = {
    "the program of a stage of several": (
        lambda patch: patch.setattr(sys, "argv", ["b.py"]),
        "the program changed from a.py to b.py",
    ),
    "Python": (
        lambda patch: patch.setattr(platform, "python_version_tuple", lambda: ("3", "99", "0")),
        f"Python changed from 3.{sys.version_info.minor} to 3.99",
    ),
    "device": (lambda _: None, "the device changed from one GPU to another"),
}


def short_walk(device: str, stop_in: int = 0) -> None:
    """A run of three epochs on a device."""
    with start_run("train", device=device) as run:
        for epoch in run.epochs(3, Walk()):
            run.log({"length": 1.0})
            if epoch == stop_in:
                raise KeyboardInterrupt


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_run_goes_on_only_where_all_that_changes_numbers_is_as_it_was(
    here: Path, name: str, monkeypatch: Patch, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "dvc.yaml").write_text(SEVERAL)
    monkeypatch.setattr(sys, "argv", ["a.py"])
    with pytest.raises(SystemExit):
        short_walk("one GPU", 3)
    change, said = OTHERWISE[name]
    change(monkeypatch)
    short_walk("another" if name == "device" else "one GPU")
    stopped, _ = recorded(here)
    assert f"not resuming {stopped.start.id} (2 epochs): {said}" in said_by(capfd)


def test_a_live_run_is_not_taken_over(here: Path, whole: Arrays) -> None:
    interrupt_in(3)
    live = recorded(here)[-1]
    with lock_of(run_dir(here, live.start.id)).acquire():
        assert_equal(walk(), whole)
    first, found, last = recorded(here)
    assert (found.start.id, found.length) == (live.start.id, live.length)
    assert logged(last) == logged(first), "it has nothing of the other's"


def test_a_look_at_a_stopped_run_does_not_keep_it_from_going_on(
    here: Path, whole: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a `sync` that reads a long record; the process that ran is known to be dead."""
    interrupt_in(3)
    stopped = recorded(here)[-1].start.id
    place = run_dir(here, stopped) / ".place"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"process": str(2**22 + 1)}))
    looker = lock_of(run_dir(here, stopped))
    looker.acquire()
    waited = []

    def looked_at(folder: Path) -> bool:
        """The look ends once somebody has waited for it in vain."""
        waited.append(folder)
        looker.release()
        return is_running(folder)

    monkeypatch.setattr("runrecord.store.runs.is_running", looked_at)
    assert_equal(walk(), whole)
    assert waited == [run_dir(here, stopped)]
    assert recorded(here)[-1].start.id == stopped
    assert len(recorded(here)) == 2


def often(stop_in: int = 0) -> None:
    """A run of four epochs that logs some things twice, and some under one title and step."""
    with start_run("train") as run:
        for epoch in run.epochs(4, Walk()):
            run.log({"twice": 1.0})
            if epoch == stop_in:
                raise KeyboardInterrupt
            run.log({"twice": 1.0})
            run.log({"best": float(epoch)}, step=0)
            run.evaluation("m", "params.yaml", {"x": 1.0})


def test_what_is_logged_several_times_is_on_record_as_often_after_a_stop(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    often()
    with pytest.raises(SystemExit):
        often(3)
    often()
    assert "warning" not in said_by(capfd).replace("warning: the code", "")
    first, second = recorded(here)
    assert logged(second) == logged(first)
    assert compare(first, second, 0).verdict == "bit-identical"
