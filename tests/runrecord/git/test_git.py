"""Git as this pipeline runs it: no caller steers it, and what it refuses is said."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import IDENTITY, new_repository

from records import end_run, new_run
from runrecord import start_run
from runrecord.cli import main
from runrecord.cli.upkeep import _checks
from runrecord.errors import UserError
from runrecord.git.commands import OutsideGit, commit_of, git, unsteered
from runrecord.git.patch import check_out
from runrecord.project import Project
from runrecord.provenance.environment import Origin, collect_origin
from runrecord.record.reader import Record, files_in
from runrecord.store.runs import run_dir, run_dirs
from runrecord.verify.rebuild import CannotRebuild, rebuild

STEERING = subprocess.run(
    ["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True
).stdout.split()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of one stage, committed."""
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    return new_repository(tmp_path / "repository")


def origin(folder: Path) -> Origin:
    project = Project(code=("src", "params.yaml", "dvc.yaml"))
    return collect_origin(folder, "train", folder, project, {}, {})


def test_no_variable_by_which_a_caller_steers_git_reaches_it() -> None:
    mine = {"PATH": "y", "GIT_AUTHOR_NAME": "z"}
    assert len(STEERING) > 10
    assert unsteered(dict.fromkeys(STEERING, "x") | mine) == mine


def test_an_option_in_place_of_a_revision_is_none(repository: Path) -> None:
    for revision in (f"--output={repository / 'src/code.py'}", "--all", "-p", "no-such", ""):
        assert commit_of(repository, revision) is None
    assert (repository / "src/code.py").read_bytes() == b"ONE = 1\n"


def test_a_change_of_a_repository_by_sha_256_is_recorded_and_checked_out(
    repository: Path, tmp_path: Path
) -> None:
    shutil.rmtree(repository / ".git")
    git(repository, "init", "--quiet", "--object-format=sha256")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=one")
    (repository / "src/code.py").write_bytes(b"ONE = 2\n")
    found = origin(repository)
    assert not found.trouble
    again = check_out(repository, found.tags["git.commit"], found.patch, tmp_path / "again")
    assert (again / "src/code.py").read_bytes() == b"ONE = 2\n"


@pytest.mark.needs("root")
def test_a_repository_that_really_is_another_owners_is_said_until_it_is_called_safe(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mount has it in a container."""
    for path in (repository, *repository.rglob("*")):
        os.chown(path, 12345, 12345)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    assert (
        f"run 'git config --global --add safe.directory {repository}'" in origin(repository).trouble
    )
    git(tmp_path, "config", "--global", "--add", "safe.directory", str(repository))
    (repository / "src/code.py").write_bytes(b"TWO = 2\r\n")
    found = origin(repository)
    assert found.trouble == ""
    check_out(repository, found.tags["git.commit"], found.patch, tmp_path / "clone")
    assert (tmp_path / "clone/src/code.py").read_bytes() == b"TWO = 2\r\n"


COMMANDS = ("runs", "show one", "compare one two", "report one two", "verify one", "gc --keep 1")


@pytest.mark.parametrize("name", ["itself", "another"])
def test_no_command_touches_the_repository_that_a_hook_names(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nor that which it is in: its HEAD, index and refs stay as they are."""
    other = new_repository(tmp_path / "other")
    for run in ("one", "two"):
        commit = commit_of(repository, "HEAD")
        new_run(run_dir(repository, run), id=run, tags={"git.commit": commit})
        end_run(run_dir(repository, run))
    named = repository if name == "itself" else other
    monkeypatch.setenv("GIT_DIR", str(named / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(named / ".git/index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(named))
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # which is put back
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    before = [contents(folder / ".git") for folder in (repository, other)]
    for command in COMMANDS:
        monkeypatch.setattr(sys, "argv", ["runrecord", *command.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == (2 if command == "verify one" else 0), command
    assert [contents(folder / ".git") for folder in (repository, other)] == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_git_no_repository_and_no_commit_are_told_apart(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DVC itself refuses a repository without Git, unless its `core.no_scm` says that there is none.
    (repository / ".git").rename(repository / "away")
    with pytest.raises(UserError, match=r"DVC cannot read .*not a git repository") as refusal:
        origin(repository)
    assert len(str(refusal.value).splitlines()) == 1
    (tmp_path / "params.yaml").write_text("lr: 1\n")
    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: a, params: [lr]}}\n")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\nno_scm = true\n")
    with pytest.raises(OutsideGit):
        git(tmp_path, "status")
    found = origin(tmp_path)
    assert found.trouble.endswith("this is no Git repository.")
    assert not [key for key in found.tags if key.startswith("git.")]
    assert found.inputs.params == {"lr": 1}, "a run knows what it can"
    git(tmp_path, "init", "--quiet")
    assert origin(tmp_path).trouble.endswith("the Git repository has no commit yet.")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "Git cannot be run" in origin(tmp_path).trouble


def test_a_run_says_at_its_start_that_git_refuses_and_goes_on(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("RUNRECORD_SINKS", "off")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with start_run("train") as run:
        (warning,) = capsys.readouterr().err.splitlines()
        run.log({"loss": 1.0})
    said = "warning: the code of the run is not recorded: Git refuses: detected dubious ownership"
    assert warning.startswith(said)
    assert f"run 'git config --global --add safe.directory {repository}'" in warning
    assert warning.endswith("It cannot be rebuilt later.")
    (folder,) = run_dirs(repository)
    record = Record(files_in(folder))
    assert "dubious ownership" in record.start.tags["git.error"]
    assert "git.dirty" not in record.start.tags, "it is not known to be clean"
    assert record.end is not None
    assert record.end.status == "FINISHED"
    (tmp_path / "verify").mkdir()
    with pytest.raises(CannotRebuild, match="not recorded: Git refuses: detected dubious"):
        rebuild(repository, record, tmp_path / "verify", own_packages=False)

    doctor = dict(_checks(repository))["Git"]
    with pytest.raises(UserError, match=r"^Git refuses: detected dubious ownership"):
        doctor()
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    new_repository(repository / "src/vendored")
    with pytest.raises(UserError, match="change is left out: src/vendored/ is a Git repository"):
        doctor()
