"""`runrecord gc` takes what DVC can give back, and nothing else."""

import platform
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from workspaces import RECORD_ONLY, Workspace, spool

from records import end_run, new_run, play
from runrecord.record.reader import Record, files_in
from runrecord.store.runs import working_on
from runrecord.trackers.tensorboard import TensorBoardSink, shown_at

Here = Callable[..., str]


@pytest.fixture(scope="module")
def run_twice(built_toy: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The toy project with two runs of each of its two stages."""
    toy = built_toy.copy(tmp_path_factory.mktemp("twice") / "project")
    for lr in (0.5, 0.25):
        toy.set_params(train__lr=lr)
        toy.run("dvc", "repro", "--force", environment=RECORD_ONLY)
        toy.run("git", "commit", "--all", "--quiet", "--allow-empty", f"--message={lr}")
    return toy


@pytest.fixture
def four(run_twice: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of it, which this process works in."""
    copied = Workspace(tmp_path / "project")
    shutil.copytree(run_twice.path, copied.path, symlinks=True)
    monkeypatch.chdir(copied.path)
    for name in ("DVC_ROOT", "DVC_STAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return copied


@pytest.fixture
def here(program: Here) -> Here:
    """`runrecord gc` in this process: what it prints."""
    return partial(program, "gc")


def oldest_first(workspace: Workspace) -> list[Path]:
    """The folders of the runs in the store; those of one second by when they began."""

    def begun(folder: Path) -> tuple[str, int]:
        return folder.name[-22:][:15], Record(files_in(folder)).start.time

    return sorted(spool(workspace), key=begun)


def test_what_dvc_can_give_back_goes_and_can_be_had_again(four: Workspace, here: Here) -> None:
    old, _, newest, _ = oldest_first(four)
    start = Record(files_in(old)).start
    play(four.path, Record(files_in(old)), TensorBoardSink)
    state = four.path / ".runrecord"
    checkpoint = state / "checkpoints" / "of-all" / old.name / "000008.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    said = here("--keep", "1")
    assert old.name in said
    assert newest.name not in said
    assert "say --yes" in said
    assert len(oldest_first(four)) == 4, "it only told"
    assert shown_at(four.path, start).exists()
    assert "dvc gc" not in said, "nothing is removed yet"
    said = here("--keep", "1", "--yes")
    assert "2 runs" in said
    assert "clean those with 'dvc gc --all-commits --all-experiments', never" in said
    assert len(oldest_first(four)) == 2
    assert newest in oldest_first(four)
    assert not shown_at(four.path, start).exists()
    assert not checkpoint.exists()
    assert not (state / "gone").exists()
    four.run("dvc", "gc", "--all-commits", "--all-experiments", "--force")
    assert old.name in four.run("runrecord", "show", "HEAD~1:train")
    (state / "gone" / "0").mkdir(parents=True)  # by one that was stopped
    assert "0 runs" in here("--keep", "1", "--yes")
    assert not (state / "gone").exists()


@pytest.mark.slow
def test_a_run_that_only_dvcs_run_cache_names_stays(four: Workspace, here: Here) -> None:
    """`dvc gc` takes it: neither a commit, an experiment nor the workspace has its dvc.lock."""
    for lr in (0.125, 0.0625):
        four.set_params(train__lr=lr)
        four.run("dvc", "repro", environment=RECORD_ONLY)
    unnamed, _, newest, _ = oldest_first(four)[4:]
    said = here("--keep", "1", "--yes")
    assert "4 runs" in said
    assert "2 older runs stay: no dvc.lock, here or in Git, names an equal record." in said
    four.run("dvc", "gc", "--workspace", "--force")
    assert unnamed.name in four.run("runrecord", "show", unnamed.name)
    four.run("dvc", "exp", "save", "--name", "kept", environment=RECORD_ONLY)
    four.run("git", "checkout", "--quiet", "--force", "HEAD")
    four.run("dvc", "repro", "--force", environment=RECORD_ONLY)
    assert newest.name in here("--keep", "1"), "an experiment names it"


def test_what_nothing_could_give_back_stays(four: Workspace, here: Here) -> None:
    """Only copies, damaged copies, runs that go on, the last of a stage."""
    old, evaluation, *_ = oldest_first(four)
    store = four.path / ".runrecord" / "runs"
    new_run(store / "failed", id="failed", stage="train", host=platform.node())
    end_run(store / "failed", status="FAILED", message="no")
    assert "1 older runs stay" in here("--keep", "1")
    with working_on(old):
        said = here("--keep", "1")
    assert old.name not in said
    assert evaluation.name in said

    text = (evaluation / "events.jsonl").read_text()
    assert '"Size":' in text
    (evaluation / "events.jsonl").write_text(text.replace('"Size":', '"Size": 1'))
    (picture,) = list((old / "images").iterdir())[:1]
    cached = [
        path
        for path in (four.path / ".dvc/cache/files/md5").rglob("*")
        if path.is_file() and path.read_bytes() == picture.read_bytes()
    ]
    assert cached
    for path in cached:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "0 runs" in here("--keep", "1", "--yes")
    shutil.rmtree(four.path / ".dvc/cache")
    assert "0 runs" in here("--keep", "1", "--yes")
    assert len(oldest_first(four)) == 5


def test_a_folder_that_says_it_is_another_run_costs_that_one_nothing(
    four: Workspace, here: Here
) -> None:
    old, _, newest, _ = oldest_first(four)
    shutil.rmtree(newest)
    shutil.copytree(old, newest)
    assert newest.name not in here("--keep", "1", "--yes")
    assert newest in oldest_first(four)


def test_how_much_is_kept_has_to_be_said(here: Here) -> None:
    assert "usage:" in here(status=2)
    assert "a count is a whole number, 1 or more" in here("--keep", "0", status=2)
