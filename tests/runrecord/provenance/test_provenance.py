"""What a run says of where it came from, and that it is enough to get there again."""

import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from workspaces import IDENTITY, new_repository

import runrecord
from records import new_run
from runrecord.dvc.stages import Stage
from runrecord.git.commands import git
from runrecord.project import Project
from runrecord.provenance.environment import (
    Origin,
    changed_inputs,
    collect_origin,
    hash_outs,
    read_inputs,
    record_of,
)
from runrecord.record.reader import Record, files_in
from runrecord.store.runs import run_dirs

PROJECT = Project(code=("src", "params.yaml", "dvc.yaml"), packages=("dvc", "no-such-package"))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of one stage, committed; the current folder, and no sink shows its runs."""
    folder = new_repository(tmp_path / "repository")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RUNRECORD_SINKS", "off")
    return folder


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=more", environment=IDENTITY)


def origin(folder: Path, **environment: str) -> Origin:
    return collect_origin(folder, "train", folder, PROJECT, {}, environment)


def record_of_the_run(folder: Path) -> Record:
    (run,) = run_dirs(folder)
    return Record(files_in(run))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_clean_run_has_a_commit_its_deps_and_no_patch(repository: Path) -> None:
    (repository / "requirements.lock").write_text("numpy==2\n")
    commit(repository)
    with runrecord.start_run("train", tags={"device.name": "a CPU", "none": ""}) as run:
        (repository / "model.bin").write_bytes(b"weights")
    record = record_of_the_run(repository)
    start, end = record.start, record.end
    assert start.patch is None
    assert record.patch() == b""
    assert start.id == run.id
    assert start.stage == "train"
    assert start.params == {"lr": 1}
    assert start.tags["git.commit"] == git(repository, "rev-parse", "HEAD").decode().strip()
    assert start.tags["git.branch"] == "main"
    assert start.tags["git.dirty"] == "false"
    assert start.tags["device.name"] == "a CPU"
    assert "none" not in start.tags
    assert start.tags["lock.sha256"] == sha256(b"numpy==2\n")
    numbers = sha256(b"1 2 3\n")
    folder = sha256(f"{numbers}  numbers.txt\n".encode())
    assert start.deps == {"src/code.py": sha256(b"ONE = 1\n"), "data/set": folder}
    assert end is not None
    assert (end.status, end.changed) == ("FINISHED", ())
    assert end.outs == {"model.bin": sha256(b"weights")}
    sealed = Record(files_in(repository / "records/train"))
    assert list(sealed.events()) == list(record.events())


def test_what_a_stage_writes_is_no_change_of_the_code(repository: Path) -> None:
    project = Project(code=(".",))
    (repository / ".gitignore").write_text("")
    commit(repository)
    (repository / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    for name in ("model.bin", "mlflow.db", "records/train/run.json"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("written\n")
    found = collect_origin(repository, "train", repository, project, {}, {})
    assert (found.patch, found.tags["git.dirty"]) == (b"", "false")
    (repository / "notes.txt").write_text("code, for all one knows\n")
    found = collect_origin(repository, "train", repository, project, {}, {})
    assert b"notes.txt" in found.patch
    assert b"written" not in found.patch
    assert b"schema" not in found.patch


def test_addresses_come_without_passwords_and_numeric_variables_with_their_values(
    repository: Path,
) -> None:
    git(repository, "remote", "add", "origin", "https://me:hunter22@host/repository.git")
    tags = origin(repository, OMP_NUM_THREADS="1", HOME="/home/somebody", SHELL="/bin/sh").tags
    assert tags["git.remote"] == "https://host/repository.git"
    assert tags["env.OMP_NUM_THREADS"] == "1"
    assert "dvc.shell" not in tags, "DVC did not start it"
    assert not any("somebody" in value or "hunter22" in value for value in tags.values())
    tags = origin(repository, DVC_STAGE="train", SHELL="/bin/sh", DVC_EXP_NAME="mine").tags
    assert (tags["dvc.shell"], tags["dvc.stage"], tags["dvc.experiment"]) == (
        "/bin/sh",
        "train",
        "mine",
    )


def test_what_is_told_keeps_no_secret_and_steers_no_terminal(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_TOKEN", "tok-12345")
    told = {"note": "by tok-12345", "option": "--output=x", "odd": "a\x1b[2Jb", "gpu": "한글 🙂"}
    tags = collect_origin(repository, "train", repository, PROJECT, told, {}).tags
    assert {name: tags.get(name) for name in told} == {
        "note": None,
        "option": None,
        "odd": "a\ufffd[2Jb",
        "gpu": "한글 🙂",
    }
    assert tags["dvc"]
    assert "no-such-package" not in tags


@pytest.mark.parametrize(
    ("name", "text", "changed"),
    [
        ("data/set/more.txt", "4\n", "data/set"),
        ("params.yaml", "lr: '1'\n", 'lr (was 1, is "1")'),
        ("params.yaml", "other: 1\n", "lr (was 1, is None)"),
        ("params.yaml", "lr: [", "DVC cannot read"),
    ],
)
def test_what_the_stage_reads_and_was_edited_is_named(
    repository: Path, name: str, text: str, changed: str
) -> None:
    was = read_inputs(repository, "train", repository)
    (repository / name).write_text(text)
    (found,) = changed_inputs(was, repository, repository)
    assert found.startswith(changed)


def test_a_large_dependency_is_read_again_only_if_it_was_touched(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = repository / "data/set/large.bin"
    file.write_bytes(b"1" * 2**20)
    notes = repository / ".runrecord/digests.db"

    def noted() -> list[str]:
        with closing(sqlite3.connect(notes)) as database:
            return [digest for (digest,) in database.execute("SELECT sha256 FROM digests")]

    first = read_inputs(repository, "train", repository).deps
    assert noted() == [], "it could change again within the same time"
    monkeypatch.setattr("runrecord.files._SETTLED", 0)
    assert read_inputs(repository, "train", repository).deps == first
    assert noted() == [sha256(b"1" * 2**20)]
    with closing(sqlite3.connect(notes)) as database, database:
        database.execute("UPDATE digests SET sha256 = 'another'")
    assert read_inputs(repository, "train", repository).deps != first, "the file is not read"
    status = file.stat()
    file.write_bytes(b"2" * 2**20)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # its size and time are as before
    changed = read_inputs(repository, "train", repository).deps
    file.write_bytes(b"1" * 2**20)
    assert read_inputs(repository, "train", repository).deps == first
    assert changed["data/set"] != first["data/set"]
    notes.write_bytes(b"no database")
    for _ in range(2):
        assert read_inputs(repository, "train", repository).deps == first
    assert noted() == [sha256(b"1" * 2**20)], "it is made anew"


def test_what_is_put_back_or_not_read_changes_nothing(repository: Path) -> None:
    was = read_inputs(repository, "train", repository)
    (repository / "params.yaml").write_text("other: 3\nlr: 1\n")
    (repository / "src/code.py").write_text("ONE = 2\n")
    (repository / "src/code.py").write_text("ONE = 1\n")
    (repository / "src/other.py").write_text("OTHER = 1\n")
    assert changed_inputs(was, repository, repository) == ()
    (repository / "src/code.py").unlink()
    assert changed_inputs(was, repository, repository) == ("src/code.py",)


def test_a_record_takes_no_out_that_its_stage_wrote(repository: Path) -> None:
    stage = Stage("train", outs=("model.bin", "records/scores.json", "records/train"))
    (repository / "records").mkdir()
    assert record_of(repository, stage) == "records/train", "scores.json is written after the run"
    (repository / "records/scores.json").write_text("{}")
    assert record_of(repository, stage) == "records/train"
    new_run(repository / "records/train")
    assert record_of(repository, stage) == "records/train"
    assert hash_outs(repository, stage) == {"records/scores.json": sha256(b"{}")}
