"""Who may import whom: docs/architecture.md."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from imports import modules_imported
from workspaces import ROOT

SRC = ROOT / "src"
MODULES = {
    path.relative_to(SRC)
    .with_suffix("")
    .as_posix()
    .replace("/", ".")
    .removesuffix(".__init__"): path
    for path in SRC.rglob("*.py")
}
HEAVY = ("torch", "sklearn", "matplotlib")
DVC = ("dvc", "dvc_data", "dvc_objects", "dvc_http", "scmrepo")
MAY_DVC = ("runrecord.dvc.cache", "runrecord.dvc.stages")
TRACKERS = ("mlflow", "tensorboardX", "tensorboard")
LINES, FILES = 10_958, 60
"""What the engine may have: who adds something takes something away."""
JOINTS = ("generative.pipeline", "generative.project", "generative.serving", "generative.data")


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def forbidden(importer: str, imported: str, inside_function: bool) -> bool:
    """May `importer` not import `imported`?"""
    into_heavy = within(imported, *HEAVY) and not (
        inside_function and within(importer, "runrecord.trackers", "runrecord.report")
    )
    rules = (
        within(importer, "runrecord") and (within(imported, "generative") or into_heavy),
        within(imported, *DVC) and importer not in MAY_DVC,
        within(importer, "runrecord.trackers")
        and within(imported, "runrecord.provenance", "runrecord.verify.rebuild"),
        within(importer, "generative")
        and not within(importer, *JOINTS)
        and within(imported, "runrecord"),
        within(importer, "generative.core", "generative.data")
        and within(imported, "generative.models", "generative.evaluation", "generative.pipeline"),
        within(importer, "generative.core", "generative.models")
        and within(imported, "generative.data", "generative.evaluation", "generative.plots"),
        within(importer, "generative.evaluation") and within(imported, "generative.core.loop"),
        within(importer, "generative.plots") and within(imported, "torch"),
    )
    return any(rules)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_imports_what_it_must_not_know(module: str) -> None:
    found = modules_imported(MODULES[module].read_text())
    wrong = [name for name, inside in found.items() if forbidden(module, name, inside)]
    assert wrong == []


def test_the_rules_see_an_arrow_that_must_not_exist() -> None:
    assert forbidden("runrecord.run.run", "generative.core.config", inside_function=True)
    assert forbidden("runrecord.trackers.mlflow.sink", "torch", inside_function=False)
    assert not forbidden("runrecord.trackers.mlflow.sink", "torch", inside_function=True)
    assert forbidden("runrecord.cli.runs", "dvc.repo", inside_function=True)
    assert not forbidden("runrecord.cli.runs", "runrecord.dvc.cache", inside_function=False)
    assert forbidden("generative.models.ae", "runrecord.record.events", inside_function=False)
    assert modules_imported("def f():\n    import torch.nn\nfrom a import b") == {
        "torch.nn": True,
        "a": False,
        "a.b": False,
    }


@pytest.mark.parametrize(
    "imported",
    [
        "import runrecord",
        "from runrecord import *",
        "from runrecord import start_run",
        "import runrecord.cli, runrecord.trackers.player",
    ],
)
def test_the_engine_starts_without_what_only_others_need(imported: str) -> None:
    """In a process of its own: this one has it all."""
    heavy = {*HEAVY, *DVC, "mlflow", "tensorboardX", "tensorboard", "scipy", "pandas", "generative"}
    code = f"{imported}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "runrecord" in loaded
    assert loaded & heavy == set()


def rooms() -> dict[str, set[str]]:
    """Which rooms of the engine each imports; a module at its top is one of its own."""
    found: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if within(name, "runrecord") and name != "runrecord":
            room = name.split(".")[1]
            imported = [one.split(".") for one in modules_imported(path.read_text())]
            own = {parts[1] for parts in imported if parts[0] == "runrecord" and len(parts) > 1}
            found.setdefault(room, set()).update(own - {room})
    return found


def test_each_room_says_what_it_is_for() -> None:
    for room in rooms():
        text = MODULES[f"runrecord.{room}"].read_text()
        words = ast.get_docstring(ast.parse(text)) or ""
        assert words, room
        if MODULES[f"runrecord.{room}"].name == "__init__.py" and room not in ("cli", "sweep"):
            assert "In: " in words, room
            assert "Out: " in words, room


def test_the_drawing_of_the_rooms_is_their_imports() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = {one: set(others.split(" & ")) for one, others in re.findall(r"(\w+) --> (.+)", page)}
    below: dict[str, set[str]] = {}
    for room in TopologicalSorter(drawn).static_order():
        direct = drawn.get(room, set())
        below[room] = direct.union(*(below[one] for one in direct))
    TopologicalSorter(rooms()).prepare()  # which refuses a circle
    found = {room: known & below.keys() for room, known in rooms().items() if room in below}
    assert below.keys() == {path.parent.name for path in (SRC / "runrecord").glob("*/__init__.py")}
    assert all(direct <= found[room] for room, direct in drawn.items()), "an arrow is an import"
    assert all(known <= below[room] for room, known in found.items()), "an import has an arrow"


def test_the_run_knows_no_tracker_and_no_other_room_does() -> None:
    assert {room for room, known in rooms().items() if "trackers" in known} == {"cli"}
    users = {
        name.split(".")[1]
        for name, path in MODULES.items()
        if within(name, "runrecord")
        and any(within(one, *TRACKERS) for one in modules_imported(path.read_text()))
    }
    assert users == {"trackers"}


def test_the_engine_stays_within_its_budget() -> None:
    engine = [path for name, path in MODULES.items() if within(name, "runrecord")]
    assert sum(len(path.read_text().splitlines()) for path in engine) <= LINES
    assert len(engine) <= FILES
