"""Commands are completed, by the line that the guide gives, in a bash at a terminal."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from workspaces import ROOT, Workspace

GUIDE = ROOT / "docs" / "runrecord" / "guide.md"
PATIENCE = 60.0  # seconds


class Terminal:
    """A bash that a person types into."""

    def __init__(self, folder: Path) -> None:
        self._own, theirs = pty.openpty()
        environment = Workspace(folder).environment | {"PS1": "> ", "TERM": "dumb"}
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def type(self, keys: str, until: str) -> str:
        """Type something; what is on the screen once a pattern is there."""
        os.write(self._own, keys.encode())
        said, deadline = "", time.monotonic() + PATIENCE
        while not re.search(until, said):
            ready, _, _ = select.select([self._own], [], [], deadline - time.monotonic())
            assert ready, said
            said += os.read(self._own, 2**16).decode(errors="replace")
        return said

    def close(self) -> None:
        self._bash.kill()
        self._bash.wait()
        os.close(self._own)


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    terminal.type("", "> ")
    yield terminal
    terminal.close()


def test_bash_completes_commands_and_options(bash: Terminal) -> None:
    (line,) = re.findall(r"^(eval .*shtab.*?) *(?:#.*)?$", GUIDE.read_text(), re.MULTILINE)
    bash.type(f"{line}; echo 'rea''dy'\n", "ready")
    bash.type("runrecord ver\t", "runrecord verify ")
    bash.type("--att\t", "--attest ")
    bash.type("\x15runrecord sweep --search t\t", "--search tpe ")
