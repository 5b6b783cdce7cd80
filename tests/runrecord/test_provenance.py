"""What a run says of where it came from, and that it is enough to get there again."""

import hashlib
from pathlib import Path

import pytest
from helpers import Workspace, client, read_until, runs

from generative.project import PROJECT
from runrecord.provenance.environment import Origin, collect_origin
from runrecord.record.reader import Record, files_in

STAGE = "train-vae"


def append(workspace: Workspace, name: str, text: str) -> None:
    with (workspace.path / name).open("a") as file:
        file.write(text)


def origin(workspace: Workspace, **environment: str) -> Origin:
    return collect_origin(workspace.path, STAGE, PROJECT, {}, environment)


def test_a_clean_run_has_a_commit_its_deps_and_no_patch(built: Workspace) -> None:
    start = Record(files_in(built.path / "records" / "vae")).start
    assert start.patch == b""
    assert start.tags["git.dirty"] == "false"
    assert start.tags["cpu.capability"]
    assert start.tags["lock.sha256"] == hashlib.sha256(built.read("requirements.lock")).hexdigest()
    model = "src/generative/models/vae.py"
    assert start.deps[model] == hashlib.sha256(built.read(model)).hexdigest()
    assert "data/mnist" in start.deps


def test_commit_and_patch_give_the_very_code_of_the_run(
    workspace: Workspace, tmp_path: Path
) -> None:
    """New, changed, removed and binary files; what is staged stays staged, what is not, not."""
    append(workspace, "src/generative/models/vae.py", "# changed\n")
    append(workspace, "src/generative/models/new.py", "# new, no newline at its end")
    append(workspace, "src/generative/extra.txt", "trailing  \n\n\n")
    (workspace.path / "src/generative/binary.bin").write_bytes(bytes(range(256)))
    (workspace.path / "stages/train_ae.py").unlink()
    workspace.run("git", "add", "src/generative/models/new.py")
    before = workspace.run("git", "status", "--porcelain")
    workspace.run("python", "stages/train_vae.py")
    assert workspace.run("git", "status", "--porcelain") == before

    start = Record(files_in(workspace.path / "records" / "vae")).start
    (run,) = runs(workspace)
    artifact = client(workspace).download_artifacts(
        run.info.run_id, "provenance/change.patch", str(tmp_path)
    )
    assert Path(artifact).read_bytes() == start.patch
    workspace.run("git", "clone", "--quiet", str(workspace.path), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    clone.run("git", "checkout", "--quiet", start.tags["git.commit"])
    clone.run("git", "apply", artifact)
    assert code_of(clone) == code_of(workspace)


def code_of(workspace: Workspace) -> dict[Path, bytes]:
    return {
        path.relative_to(workspace.path): path.read_bytes()
        for folder in ("src", "stages")
        for path in (workspace.path / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# at https://me:hunter22@host/\n", "left out: it holds a password or a token"),
        ("# tok-12345\n", "left out: it holds a password or a token"),
        ("x" * 2**20, "bytes of files are changed, more than 1048576"),
    ],
)
def test_a_patch_that_must_not_be_kept_is_left_out(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    monkeypatch.setenv("SOME_API_TOKEN", "tok-12345")
    append(workspace, "src/generative/models/vae.py", text)
    found = origin(workspace)
    assert found.patch == b""
    assert found.tags["git.dirty"] == "true"
    assert reason in found.tags["git.patch"]


def test_addresses_come_without_passwords_and_numeric_variables_with_their_values(
    workspace: Workspace,
) -> None:
    workspace.run("git", "remote", "add", "origin", "https://me:hunter22@host/repository.git")
    tags = origin(workspace, OMP_NUM_THREADS="1", HOME="/home/somebody").tags
    assert tags["git.remote"] == "https://host/repository.git"
    assert tags["env.OMP_NUM_THREADS"] == "1"
    assert not any("somebody" in value or "hunter22" in value for value in tags.values())


def test_without_git_a_run_knows_what_it_can(workspace: Workspace) -> None:
    (workspace.path / ".git").rename(workspace.path / "away")
    found = origin(workspace)
    assert not [key for key in found.tags if key.startswith("git.")]
    assert found.deps


def test_code_that_is_edited_while_it_runs_fails_the_run(workspace: Workspace) -> None:
    workspace.set_params(vae__batch_size=1, vae__epochs=4)
    with workspace.start("python", "stages/train_vae.py") as process:
        assert process.stdout is not None
        read_until(process.stdout, "epoch 1/")
        append(workspace, "src/generative/models/vae.py", "# edited\n")
        output = process.stdout.read()
        assert process.wait() == 1
    assert "error: src/generative/models/vae.py changed while train-vae ran: " in output
    (run,) = runs(workspace)
    assert run.info.status == "FAILED"
    assert run.data.tags["deps.changed"] == "src/generative/models/vae.py"
