"""Who may import whom: docs/architecture.md."""

import subprocess
import sys

import pytest
from helpers import ROOT, modules_imported

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
JOINTS = ("generative.pipeline", "generative.project", "generative.serving")


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def forbidden(importer: str, imported: str, inside_function: bool) -> bool:
    """May `importer` not import `imported`?"""
    into_heavy = within(imported, *HEAVY) and not (
        inside_function and within(importer, "runrecord.sinks", "runrecord.report")
    )
    rules = (
        within(importer, "runrecord") and (within(imported, "generative") or into_heavy),
        within(importer, "runrecord.record")
        and within(imported, "runrecord.sinks", "runrecord.provenance", "runrecord.cli", "dvc"),
        within(importer, "runrecord.sinks")
        and within(imported, "runrecord.provenance", "runrecord.verify", "runrecord.cli"),
        not within(importer, "runrecord.cli") and within(imported, "runrecord.cli"),
        within(importer, "generative")
        and not within(importer, *JOINTS)
        and within(imported, "runrecord"),
        within(importer, "generative.data")
        and within(imported, "generative.models", "generative.training"),
        within(importer, "generative.models")
        and within(imported, "generative.data", "generative.training", "generative.evaluation"),
        within(importer, "generative.training") and within(imported, "generative.evaluation"),
        within(importer, "generative.evaluation") and within(imported, "generative.training"),
        within(importer, "generative.plots") and within(imported, "torch"),
    )
    return any(rules)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_imports_what_it_must_not_know(module: str) -> None:
    found = modules_imported(MODULES[module].read_text())
    wrong = [name for name, inside in found.items() if forbidden(module, name, inside)]
    assert wrong == []


def test_the_vocabulary_needs_nothing_but_numpy() -> None:
    found = modules_imported(MODULES["runrecord.events"].read_text())
    third = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names)
    assert third == {"numpy"}


def test_the_rules_see_an_arrow_that_must_not_exist() -> None:
    assert forbidden("runrecord.run", "generative.config", inside_function=True)
    assert forbidden("runrecord.sinks.mlflow", "torch", inside_function=False)
    assert not forbidden("runrecord.sinks.mlflow", "torch", inside_function=True)
    assert forbidden("generative.models.ae", "runrecord.events", inside_function=False)
    assert modules_imported("def f():\n    import torch.nn\nfrom a import b") == {
        "torch.nn": True,
        "a": False,
        "a.b": False,
    }


@pytest.mark.parametrize(
    "module", ["runrecord", "runrecord.run", "runrecord.cli", "runrecord.sync"]
)
def test_the_engine_starts_without_what_only_others_need(module: str) -> None:
    heavy = (*HEAVY, "mlflow", "dvc", "tensorboardX", "scipy", "pandas", "generative")
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_module_of_the_engine_is_long() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 300} == {}
