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


@pytest.mark.parametrize(
    "named", ["", ".a:x", "no_such_module:X", "runrecord.project:Nothing", "os:path", "os"]
)
def test_a_wrong_name_is_one_sentence(tmp_path: Path, named: str) -> None:
    write(tmp_path, f"[tool.runrecord]\nproject = '{named}'\n")
    with pytest.raises(UserError, match=r"pyproject\.toml: tool\.runrecord\.project is '"):
        load_project(tmp_path)
    with pytest.raises(UserError, match=r"pyproject\.toml: not TOML: "):
        load_project(write(tmp_path, f"[tool {named}\n"))


@pytest.mark.parametrize("module", ["is_no_python", "fails"])
def test_a_project_whose_module_is_wrong_is_one_sentence(tmp_path: Path, module: str) -> None:
    (tmp_path / f"wrong_{module}.py").write_text(SOURCES[module])
    write(tmp_path, f"[tool.runrecord]\nproject = 'wrong_{module}:MINE'\n")
    with pytest.raises(UserError, match=rf"project is 'wrong_{module}:MINE', which cannot be had"):
        load_project(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("code", "src"), ("packages", None), ("seeds", [1]), ("better", ["loss"]), ("checks", 1)],
)
def test_a_field_of_another_type_is_refused_where_the_project_is_made(
    field: str, value: object
) -> None:
    with pytest.raises(UserError, match=rf"Project\({field}=.*\): it should be a "):
        Project(**{field: value})  # type: ignore[arg-type]


def test_a_spread_of_fewer_than_two_runs_is_refused_where_the_project_is_made() -> None:
    with pytest.raises(UserError, match=r"Project\(spread_runs=1\): .* 2 runs or more; [^.]+\."):
        Project(spread_runs=1)
    assert Project(spread_runs=2).spread_runs == 2
