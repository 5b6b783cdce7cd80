"""A machine with Python and git alone: the suite is green there, and says what it skips."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needs import NEEDS
from workspaces import ROOT


@pytest.mark.slow
def test_without_anything_every_test_that_needs_something_names_it(tmp_path: Path) -> None:
    """Of a pytest that has no program but Git on its PATH."""
    (tmp_path / "git").symlink_to(str(shutil.which("git")))
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--bare", "-m", "needs")
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=own | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ skipped(, \d+ deselected)? in ", done.stdout, re.MULTILINE), done.stdout
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+: (.+)$", done.stdout, re.MULTILINE)
    assert {one for reason in reasons for one in reason.split("; ")} == {
        need.missing for need in NEEDS.values()
    }, "each need is some test's"
