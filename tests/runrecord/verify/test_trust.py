"""A change that was made elsewhere runs only after a person at a terminal says yes."""

import os
import pty
import subprocess
from pathlib import Path

import pytest
from workspaces import IDENTICAL, TOY_TRAIN, Workspace, assert_nothing_left, recorded, verify


@pytest.fixture
def clone(toy: Workspace, tmp_path: Path) -> Workspace:
    """A clone of somebody's repository, with the record of a run of their uncommitted code."""
    with (toy.path / "train.py").open("a") as file:
        file.write("# theirs\x1b[31m\n")
    recorded(toy, TOY_TRAIN)
    toy.run("git", "clone", "--quiet", str(toy.path), str(tmp_path / "clone"))
    return Workspace(tmp_path / "clone")


def answered(clone: Workspace, record: Path, answer: bytes) -> tuple[int, str]:
    """The exit status of `verify` at a terminal where somebody types that, and what it printed."""
    person, terminal = pty.openpty()
    try:
        os.write(person, answer)
        done = subprocess.run(
            ["runrecord", "verify", str(record)],
            cwd=clone.path,
            env=clone.environment,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
    finally:
        os.close(person)
        os.close(terminal)
    return done.returncode, done.stdout


def test_nothing_but_yes_lets_a_change_from_elsewhere_run(clone: Workspace, toy: Workspace) -> None:
    record = toy.path / "records/train"
    assert "say --yes" in verify(clone, str(record), status=2), "where nobody can be asked"
    for answer in (b"n\n", b"\x04"):
        status, said = answered(clone, record, answer)
        assert status == 2, said
        assert "+# theirs\ufffd[31m" in said, "no control character reaches the terminal"
        assert "was never run from this repository on this machine. Rebuilding runs it. Go" in said
        assert said.endswith("error: nothing was run.\n")
        assert "epoch 1/" not in said
        assert_nothing_left(clone)
    status, said = answered(clone, record, b"y\n")
    assert status == 0, said
    assert IDENTICAL in said
