"""The chapter's notebooks: the same code in both languages, run as a reader would run it."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
from workspaces import ROOT, SAMPLE, Workspace, wait_until

NOTEBOOKS = ROOT / "notebooks"
NAMES = ("chapter13.ipynb", "chapter13.ko.ipynb")
LISTINGS = {f"13-{number}" for number in range(1, 19)}

Cell = dict[str, Any]


def cells(path: Path, kind: str) -> list[Cell]:
    """A notebook's cells of a kind, `code` or `markdown`."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def text(path: Path) -> str:
    """All that a notebook tells, less its code."""
    return "\n".join(map(source, cells(path, "markdown")))


def printed(path: Path) -> str:
    """What the cells printed."""
    outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
    return "".join("".join(output["text"]) for output in outputs if "text" in output)


def test_code_headings_links_and_names_are_the_same_in_both_languages_and_none_is_missing() -> None:
    english, korean = (NOTEBOOKS / name for name in NAMES)
    for part in ("cell_type", "id", "metadata"):
        first, second = (
            [cell[part] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
            for path in (english, korean)
        )
        assert first == second
    assert [*map(source, cells(english, "code"))] == [*map(source, cells(korean, "code"))]
    for pattern in (r"^#+ ", r"\]\((?!chapter13)([^)#]+)", r"`([^`\n]+)`", r"13-\d+", r"0\.\d+"):
        first, second = (
            sorted(re.findall(pattern, text(path).replace(".ko.", "."), re.MULTILINE))
            for path in (english, korean)
        )
        assert first == second
    told = text(english)
    headings = re.findall(r"^### .*$", told, re.MULTILINE)
    assert {*re.findall(r"13-\d+", "".join(headings))} == LISTINGS
    links = re.findall(r"\]\(([^)#]+)", told)
    assert len(links) > 20
    assert [link for link in links if not (NOTEBOOKS / link).is_file()] == []


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_one_whole_run_and_tell_nothing_of_its_machine(name: str) -> None:
    path = NOTEBOOKS / name
    assert path.stat().st_size < 300_000
    ran = cells(path, "code")
    assert [cell["execution_count"] for cell in ran] == [*range(1, len(ran) + 1)]
    outputs = [output for cell in ran for output in cell["outputs"]]
    assert all(output.get("name", "stdout") == "stdout" for output in outputs), "no warning"
    assert "error" not in {output["output_type"] for output in outputs}
    pictures = [output["data"].pop("image/png", None) for output in outputs if "data" in output]
    assert sum(map(bool, pictures)) == 5
    assert not re.search(r"/(work|tmp|home|root|usr|opt|Users)\b|localhost", json.dumps(ran))

    lines = re.findall(r"EPOCH \d/2 \t train loss (\S+) \t val loss (\S+)", printed(path))
    pipelines = []
    for model in ("ae", "vae"):
        with (ROOT / "metrics" / f"{model}_history.csv").open() as file:
            rows = [*csv.DictReader(file)][:2]
        pipelines += [float(row[f"{s}/Total Loss"]) for row in rows for s in ("Train", "Test")]
    found = [float(loss) for line in lines for loss in line]
    assert found == pytest.approx(pipelines, rel=0.02), "processors differ in the last digits"


@pytest.fixture
def clone(tmp_path: Path) -> Workspace:
    """What the notebooks need of a fresh clone, set to one thread: two tests run at once."""
    workspace = Workspace(tmp_path / "clone")
    shutil.copytree(NOTEBOOKS, workspace.path / "notebooks")
    shutil.copytree(SAMPLE, workspace.path / "tests" / "data")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(ROOT / name, workspace.path / name)
    workspace.set_params(compute__device="cpu", compute__threads=1)
    return workspace


def run(workspace: Workspace, name: str, status: int = 0) -> str:
    """`notebooks/run.py`, which leaves no file and no process: what it said."""
    scratch = workspace.path.parent / "scratch"
    scratch.mkdir()
    command = ("python", "-W", "error", "notebooks/run.py", name)
    said = workspace.run(*command, status=status, TMPDIR=str(scratch))
    assert not [*scratch.iterdir()]

    def left() -> list[str]:
        lines = [one.info["cmdline"] or () for one in psutil.process_iter(["cmdline"])]
        return [" ".join(line) for line in lines if str(scratch) in " ".join(line)]

    wait_until(lambda: not left())
    return said


def contents(workspace: Workspace) -> dict[str, bytes]:
    """Its files, less the notebooks."""
    paths = [path for path in workspace.path.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths if path.suffix != ".ipynb"}


@pytest.mark.needs("notebook")
@pytest.mark.slow
def test_a_notebook_runs_in_a_fresh_clone_and_changes_nothing_else(clone: Workspace) -> None:
    """That in Korean: both have the same code."""

    def contents() -> dict[Path, bytes]:
        paths = [path for path in clone.path.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in paths if path.suffix != ".ipynb"}

    before, ran = contents(), clone.path / "notebooks" / NAMES[1]
    run(clone, ran.name)
    assert contents() == before
    assert "tests/data: 256 training images" in printed(ran)
    made, committed = (
        [[output["output_type"] for output in cell["outputs"]] for cell in cells(path, "code")]
        for path in (ran, NOTEBOOKS / ran.name)
    )
    assert made == committed


@pytest.mark.needs("notebook")
def test_a_cell_that_fails_fails_the_run_with_its_traceback(clone: Workspace) -> None:
    path = clone.path / "notebooks" / NAMES[0]
    broken = path.read_bytes().replace(b"import os", b"1 / 0", 1)
    path.write_bytes(broken)
    assert "ZeroDivisionError" in run(clone, NAMES[0], status=1)
    assert path.read_bytes() == broken
