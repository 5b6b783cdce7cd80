"""Setting up: what pip is set to holds for uv and `verify --env`; uv itself is the locked one."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from workspaces import IDENTICAL, RECORD_ONLY, ROOT, new_project, verify

MIRROR = "http://mirror.invalid/simple"
OTHER = "http://other.invalid/simple"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pip.conf to write; of what else sets pip and uv, only this machine's own file is left."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "SSL_")) or name.upper() == "ALL_PROXY":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    (tmp_path / "pip.conf").touch()
    return tmp_path / "pip.conf"


def by_make(folder: Path, command: str, **variables: str) -> str:
    """What a command prints that the Makefile runs."""
    (folder / "by.mk").write_text(f"include {ROOT}/Makefile\nby:\n\t@{command}\n")
    return subprocess.run(
        ["make", "--no-print-directory", "-f", folder / "by.mk", f"VENV={sys.prefix}", "by"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("file", "variables", "wanted"),
    [
        ("", {}, {}),
        (
            f"[global]\nindex-url = {OTHER}\n",
            {"PIP_INDEX_URL": MIRROR},
            {"UV_DEFAULT_INDEX": MIRROR},
        ),
        (
            f"[global]\nextra-index-url =\n  {MIRROR}\n  {OTHER}\ntrusted-host = a b\n"
            "cert = /etc/a b.pem\nfind-links =\n  /x\n  /y\nproxy = http://p:1\n",
            {},
            {
                "UV_INDEX": f"{MIRROR} {OTHER}",
                "UV_INSECURE_HOST": "a b",
                "SSL_CERT_FILE": "/etc/a b.pem",
                "UV_FIND_LINKS": "/x,/y",
                "ALL_PROXY": "http://p:1",
            },
        ),
    ],
)
def test_what_pip_is_set_to_holds_for_uv(
    machine: Path, file: str, variables: dict[str, str], wanted: dict[str, str]
) -> None:
    machine.write_text(file)
    shown = by_make(machine.parent, "$(UV) --version; env", **variables).splitlines()
    assert shown[0].startswith("uv ")
    assert {f"{name}={value}" for name, value in wanted.items()} <= {*shown}
    assert wanted or "UV_DEFAULT_INDEX" not in "".join(shown), "uv takes its own index"


def wheel_in(folder: Path) -> str:
    """Make the wheel of a package that is nowhere else; its line in a lock file."""
    folder.mkdir()
    files = {
        "only_there.py": "",
        "only_there-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: only-there\n"
        "Version: 1.0\n",
        "only_there-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
        "only_there-1.0.dist-info/RECORD": "",
    }
    wheel = folder / "only_there-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return f"only-there==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.mark.slow
def test_verify_rebuilds_the_environment_from_where_pip_is_set_to(
    machine: Path, tmp_path: Path
) -> None:
    """No other environment has the package that the stage imports."""
    files = {
        ".gitignore": "/.runrecord\n/records\n/o.txt\n",
        ".dvcignore": "/.runrecord\n",
        "requirements.lock": wheel_in(tmp_path / "mirror"),
        "use.py": "import only_there\nopen('o.txt', 'w').write(only_there.__name__)\n",
        "dvc.yaml": "stages: {use: {cmd: runrecord exec -- python use.py, deps: [use.py],"
        " outs: [o.txt, records/use]}}\n",
    }
    workspace = new_project(tmp_path / "project", files)
    here = tmp_path / "here"
    here.mkdir()
    (here / "only_there.py").touch()
    path = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
    workspace.run("dvc", "repro", environment=RECORD_ONLY, PYTHONPATH=path)
    machine.write_text(f"[global]\nno-index = true\nfind-links = {tmp_path / 'mirror'}\n")
    failed = verify(workspace, "records/use", status=2)
    assert "No module named 'only_there'" in failed
    assert IDENTICAL in verify(workspace, "records/use", "--env")


def test_set_up_takes_uv_by_its_hash_and_all_else_by_uv(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    plan = subprocess.run(
        ["make", "--dry-run", "setup"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    (extract,) = [line for line in plan if line.startswith("sed ")]
    subprocess.run(extract, shell=True, cwd=tmp_path, check=True)
    pinned = (tmp_path / ".venv/uv.lock").read_text()
    assert pinned.startswith("uv==")
    assert pinned.count("--hash=sha256:") > 5
    assert pinned.count("==") == 1
    assert pinned in (ROOT / "requirements.lock").read_text()
    installs = [line for line in plan if " pip install " in line or " pip compile " in line]
    assert len(installs) == 3
    for line in installs:
        assert "--require-hashes" in line or "--no-deps" in line
        assert (
            "; UV_INDEX_STRATEGY=unsafe-best-match .venv/bin/uv pip" in line
            or "--requirement .venv/uv.lock" in line
        )


@pytest.mark.slow
@pytest.mark.parametrize("program", ["bench", "big", "growth", "peers", "scale"])
def test_a_benchmark_begins_as_the_makefile_starts_it(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing on Python's path that the tests alone put there."""
    assert f"python benchmarks/{program}.py" in (ROOT / "Makefile").read_text()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command = [sys.executable, f"benchmarks/{program}.py", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.stdout.startswith(f"usage: {program}.py"), shown.stderr
