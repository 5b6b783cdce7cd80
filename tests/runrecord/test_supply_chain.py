"""What is taken from others, and what is given to them: locks, actions, SBOM, wheel."""

import json
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from needs import SUPPLY_CHAIN
from workspaces import ROOT, Workspace

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


def test_actions_are_named_by_commit() -> None:
    """Whoever owns an action can move its tags."""
    used = []
    for path in (ROOT / ".github/workflows").iterdir():
        jobs = yaml.safe_load(path.read_text())["jobs"].values()
        used += [step["uses"] for job in jobs for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used), used


@pytest.mark.slow
@pytest.mark.needs("supply-chain")
def test_the_sbom_lists_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    built = tmp_path / "src/runrecord.egg-info"
    built.mkdir(parents=True)
    (built / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: runrecord\nVersion: 1.0\n")
    monkeypatch.setenv("PYTHONPATH", str(built.parent))
    settled = ("-o", "setup", "-o", f"{SUPPLY_CHAIN}/installed")
    made = ("make", *settled, f"SUPPLY_CHAIN={SUPPLY_CHAIN}", f"VENV={sys.prefix}", "sbom")
    subprocess.run(made, cwd=tmp_path, capture_output=True, check=True)
    text = (tmp_path / "sbom.json").read_text()
    bom = json.loads(text)
    assert bom["bomFormat"] == "CycloneDX"
    assert bom["metadata"]["component"]["name"] == "runrecord"
    components = {component["name"]: component for component in bom["components"]}
    assert "runrecord" not in components
    for name in ("torch", "dvc", "mlflow"):
        assert components[name]["version"] == version(name)
        assert components[name]["licenses"]
    assert "file://" not in text, "nothing of this machine"


@pytest.mark.slow
def test_the_wheel_is_the_same_wherever_and_whenever_it_is_built(tmp_path: Path) -> None:
    wheels = []
    for name, umask, zone in (("first", "022", "UTC"), ("other/second", "077", "Asia/Seoul")):
        clone = Workspace(tmp_path / name)
        clone.path.mkdir(parents=True)
        for command in (f"git clone --quiet {ROOT} .", f"make -o setup wheel VENV={sys.prefix}"):
            clone.run("sh", "-c", f"umask {umask}; {command}", TZ=zone)
        (wheel,) = (clone.path / "dist").iterdir()
        wheels.append(wheel.read_bytes())
        assert clone.run("git", "status", "--porcelain") == ""
    assert wheels[0] == wheels[1]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = clone.run("git", "ls-files", "src").splitlines()
    assert {file.removeprefix("src/") for file in tracked} <= names
