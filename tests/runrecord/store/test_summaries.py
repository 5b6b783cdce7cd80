"""The summaries of runs: what they save, and that they can be thrown away at any time."""

import shutil
from pathlib import Path

import pytest
from workspaces import IDENTITY, Workspace, new_repository, spool

from records import audited, end_run, new_run, records_among
from runrecord.cli.pages import report
from runrecord.cli.runs import list_runs, which
from runrecord.dvc.cache import known_records
from runrecord.git.commands import git
from runrecord.store.catalog import SUMMARY, all_runs
from runrecord.store.runs import run_dir

NAMES = ("a", "b", "c")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository, the current folder, with three runs in its store."""
    folder = new_repository(tmp_path / "repository")
    monkeypatch.chdir(folder)
    for time, name in enumerate(NAMES, start=1):
        finished(run_dir(folder, name), id=name, time=time, params={"seed": time})
    return folder


def finished(folder: Path, **start: object) -> None:
    run = new_run(folder, **start)
    run.log({"loss": 0.5}, step=1)
    run.text("report", f"by {folder.name}")
    end_run(folder)


def listed(root: Path) -> list[tuple[str, int, str | None]]:
    """What is known of each run, without a failure."""
    failures: list[str] = []
    runs = all_runs(root, lambda label, _error: failures.append(label))
    assert failures == []
    return [(run.id, run.summary.length, run.summary.status) for run in runs]


def test_a_record_is_read_once(root: Path) -> None:
    (root / "report.txt").write_text("by b")
    finished(root / "records" / "train", id="train", params={"seed": 9})
    with audited("open") as opened:
        list_runs()
    assert set(records_among(opened)) == {*NAMES, "train"}
    with audited("open") as opened:
        list_runs()
    assert set(records_among(opened)) == {"train"}, "a sealed one is DVC's: nothing lies beside it"
    with audited("open") as opened:
        which(Path("report.txt"))
    assert set(records_among(opened)) == {"b", "train"}
    with audited("open") as opened:
        report([], root / "report.html")
    lines = [Path(str(one[0])) for one in opened if str(one[0]).endswith("events.jsonl")]
    assert {path.parent.name for path in lines} == {"train"}, "of the others, how they began"


def test_what_changed_is_read_again_and_what_is_gone_is_forgotten(root: Path) -> None:
    before = listed(root)
    run = new_run(run_dir(root, "d"), id="d")
    assert listed(root) == [*before, ("d", 1, None)]
    run.log({"loss": 1.0}, step=1)
    with audited("open") as opened:
        assert listed(root) == [*before, ("d", 2, None)]
    assert set(records_among(opened)) == {"d"}
    end_run(run_dir(root, "d"), status="FAILED")
    assert listed(root) == [*before, ("d", 3, "FAILED")]
    shutil.rmtree(run_dir(root, "d"))
    assert listed(root) == before
    (run_dir(root, "a") / "run.json").write_text("none")
    failures: list[str] = []
    for _ in range(2):
        all_runs(root, lambda label, _error: failures.append(label))
    assert failures == [str(run_dir(root, "a"))] * 2


@pytest.mark.parametrize("damage", ["gone", "half", "another version", "a folder"])
def test_without_a_good_summary_all_is_as_with_one(root: Path, damage: str) -> None:
    before = listed(root)
    summary = run_dir(root, "b") / SUMMARY
    content = summary.read_bytes()
    summary.unlink()
    match damage:
        case "half":
            summary.write_bytes(content[: len(content) // 2])
        case "another version":
            summary.write_bytes(content.replace(b'"stamp":"', b'"stamp":"9'))
        case "a folder":
            (summary / "in the way").mkdir(parents=True)
    with audited("open") as opened:
        assert listed(root) == before
    assert set(records_among(opened)) == {"b"}
    with audited("open") as opened:
        assert listed(root) == before
    assert set(records_among(opened)) == ({"b"} if damage == "a folder" else set())


def test_summaries_move_with_their_folder(root: Path) -> None:
    before = listed(root)
    root.rename(root.with_name("moved"))
    with audited("open") as opened:
        assert listed(root.with_name("moved")) == before
    assert records_among(opened) == []


def test_every_version_of_a_lock_file_is_read_by_one_process(toy: Workspace) -> None:
    """As many processes of Git's with many versions as with one, and every record found."""
    with audited("subprocess.Popen") as of_one:
        before = [label for label, files in known_records(toy.path) if files]
    lock = toy.path / "dvc.lock"
    for number in range(3):
        lock.write_text(f"{lock.read_text()}# {number}\n")
        git(toy.path, "commit", "--quiet", "--all", f"--message={number}", environment=IDENTITY)
    with audited("subprocess.Popen") as of_many:
        after = [label for label, files in known_records(toy.path) if files]
    assert len(after) == len(before) > 0
    assert len(of_many) == len(of_one) > 0
    assert spool(toy) == []
