"""What the engine is told of a project: everything has a default, and what is wrong is said."""

import sys
from contextlib import suppress
from pathlib import Path

import pytest

from runrecord.errors import UserError
from runrecord.project import Project, load_project


def write(root: Path, text: str) -> Path:
    (root / "pyproject.toml").write_text(text)
    return root


@pytest.mark.parametrize("text", ["", "[tool.other]\n", "[tool]\nrunrecord = {}\n"])
def test_a_project_need_not_tell_anything(tmp_path: Path, text: str) -> None:
    assert load_project(tmp_path) == Project()
    assert load_project(write(tmp_path, text)) == Project()


def test_a_project_that_is_not_installed_is_found_beside_its_pyproject(tmp_path: Path) -> None:
    source = "from runrecord.project import Project\nMINE = Project(experiment='mine')\n"
    (tmp_path / "its_own_project.py").write_text(source)
    write(tmp_path, "[tool.runrecord]\nproject = 'its_own_project:MINE'\n")
    assert load_project(tmp_path).experiment == "mine"


SOURCES = {
    "finds_its_settings": "from runrecord.project import Project\nMINE = Project()\n",
    "is_no_python": "MINE = (\n",
    "fails": "raise RuntimeError\n",
    "changes_the_path_itself": "import sys\nsys.path = ['x', *sys.path[1:]]\nMINE = None\n",
}


@pytest.mark.parametrize("module", SOURCES)
def test_where_a_script_finds_its_own_modules_stays_as_it_was(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{module}.py").write_text(SOURCES[module])
    write(tmp_path, f"[tool.runrecord]\nproject = '{module}:MINE'\n")
    script = [str(tmp_path), *sys.path, str(tmp_path), "last"]  # Python puts its folder first
    monkeypatch.setattr(sys, "path", search := [*script])
    with suppress(Exception):
        load_project(tmp_path)
    assert sys.path is search
    assert sys.path == script


@pytest.mark.parametrize("named", ["", "no_such_module:X", "os:path", "no_python:MINE"])
def test_a_wrong_name_is_one_sentence(tmp_path: Path, named: str) -> None:
    (tmp_path / "no_python.py").write_text(SOURCES["is_no_python"])
    write(tmp_path, f"[tool.runrecord]\nproject = '{named}'\n")
    with pytest.raises(UserError, match=r"pyproject\.toml: tool\.runrecord\.project is '"):
        load_project(tmp_path)
    with pytest.raises(UserError, match=r"pyproject\.toml: not TOML: "):
        load_project(write(tmp_path, f"[tool {named}\n"))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("code", "src", "should be a tuple of texts"),
        ("seeds", [1], "should be a tuple of texts"),
        ("better", ["loss"], "should be a dictionary"),
        ("spread_runs", 1, "2 runs or more"),
    ],
)
def test_a_field_that_is_wrong_is_refused_where_the_project_is_made(
    field: str, value: object, said: str
) -> None:
    with pytest.raises(UserError, match=rf"Project\({field}=.*\): .*{said}"):
        Project(**{field: value})  # type: ignore[arg-type]
