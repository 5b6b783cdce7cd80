"""A machine with Python and git alone: the suite is green there, and says what it skips."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needs import NEEDS, Need
from workspaces import ROOT


def skipped(folder: Path, *arguments: str) -> set[str]:
    """The reasons of a pytest that has no program but Git on its PATH, and only skips tests."""
    (folder / "git").symlink_to(str(shutil.which("git")))
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=own | {"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ skipped(, \d+ deselected)? in ", done.stdout, re.MULTILINE), done.stdout
    return set(re.findall(r"^SKIPPED \[\d+\] \S+: (.+)$", done.stdout, re.MULTILINE))


@pytest.mark.slow
def test_without_a_browser_a_test_of_pages_says_what_installs_one(tmp_path: Path) -> None:
    reasons = skipped(tmp_path, "tests/runrecord/trackers/test_viewers.py", "-k", "own_page")
    assert reasons == {"Chromium is not installed: apt-get install chromium"}


@pytest.mark.slow
def test_without_anything_every_test_that_needs_something_names_it(tmp_path: Path) -> None:
    reasons = skipped(tmp_path, "--bare", "-m", "needs")
    assert {one for reason in reasons for one in reason.split("; ")} == {
        need.missing for need in NEEDS.values()
    }, "each need is some test's"


@pytest.mark.parametrize("need", NEEDS.values(), ids=NEEDS)
def test_what_is_missing_is_said_with_a_remedy(need: Need) -> None:
    assert re.search(
        r": (apt-get install|make (audit|setup EXTRAS=)|pip install|run )", need.missing
    )
