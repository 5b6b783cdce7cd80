"""What is taken from others: the locks of the extras."""

import re
from pathlib import Path

import pytest
from workspaces import ROOT

MAIN = ROOT / "requirements.lock"
OTHERS = sorted(ROOT.glob("requirements-*.lock"))


def locked(path: Path) -> dict[str, frozenset[str]]:
    """The hashes of each package in a lock file, by its name, version and where it is wanted."""
    blocks = re.split(r"\n(?=\S)", path.read_text())
    return {
        block.partition(" ")[0]: frozenset(re.findall("sha256:[0-9a-f]{64}", block))
        for block in blocks
    }


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_extras_lock_the_packages_that_they_share_as_all_else_does(path: Path) -> None:
    """Of each version every file: one that was locked from a folder of wheels has but its own."""
    main, extra = locked(MAIN), locked(path)
    names = {package.partition("==")[0]: package for package in main}
    shared = {package for package in extra if package.partition("==")[0] in names}
    assert len(shared) > 50
    assert {package: extra[package] for package in shared} == {
        package: main.get(package) for package in shared
    }


def test_every_extra_with_a_lock_is_locked_again_and_set_up_in_ci() -> None:
    (again,) = re.findall(r"for extra in (.+); do", (ROOT / "Makefile").read_text())
    (set_up,) = re.findall(r"make setup EXTRAS='(.+)'", (ROOT / ".ci/run").read_text())
    names = {path.stem.removeprefix("requirements-") for path in OTHERS}
    assert {*again.split()} == {*set_up.split()} == names
