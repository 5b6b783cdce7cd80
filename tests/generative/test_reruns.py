"""`dvc repro` rebuilds what changed, all of it and nothing else: shown by running DVC."""

import ast
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from imports import imported_files
from workspaces import RECORD_ONLY, ROOT, Workspace

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SERVING = "src/generative/serving.py"
NO_RESULT = {
    SERVING,
    "src/generative/checks.py",
    "src/generative/errors.py",
    "src/generative/hardware.py",
    "src/generative/pipeline/stage.py",
    "src/generative/plots/image_grids.py",  # of previews; `evaluate` has it among its deps
    "src/generative/project.py",
}
"""Files of the experiment that decide no result, besides empty packages."""
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def shared(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One workspace for all rows: each row puts back what it changed."""
    return built.copy(tmp_path_factory.mktemp("reruns") / "repository")


@pytest.fixture
def record_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stage of this test shows itself in MLflow: DVC knows nothing of it either way."""
    for name, value in RECORD_ONLY.items():
        monkeypatch.setenv(name, value)


def append(name: str, text: str) -> Callable[[Workspace], None]:
    def change(workspace: Workspace) -> None:
        with (workspace.path / name).open("a") as file:
            file.write(text)

    return change


def reverse_params(workspace: Workspace) -> None:
    """The same params in another order, with a comment."""
    document = workspace.params()
    turned = {
        block: dict(reversed(values.items())) if isinstance(values, dict) else values
        for block, values in reversed(list(document.items()))
    }
    text = "# another comment\n" + yaml.safe_dump(turned, sort_keys=False)
    (workspace.path / "params.yaml").write_text(text)


@pytest.mark.usefixtures("record_only")
@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        pytest.param(lambda _: None, [], id="nothing"),
        pytest.param(append("README.md", "\nmore\n"), [], id="README"),
        pytest.param(reverse_params, [], id="order and comments of params.yaml"),
        pytest.param(
            lambda w: w.set_params(vae__latent_dim=4),
            ["train-vae", "evaluate"],
            id="latent_dim",
            marks=pytest.mark.slow,
        ),
        pytest.param(append("src/runrecord/run/start.py", "\n# changed\n"), [], id="runrecord"),
    ],
)
def test_a_change_reruns_what_reads_it_and_going_back_reruns_nothing(
    shared: Workspace, change: Callable[[Workspace], None], rerun: list[str]
) -> None:
    before = shared.read("dvc.lock")
    change(shared)
    assert shared.repro() == rerun
    shared.run("git", "checkout", "--quiet", ".")
    assert shared.repro() == [], "the old state comes from the run cache"
    assert shared.read("dvc.lock") == before


@pytest.mark.parametrize(
    ("param", "stage"),
    [
        ({"evaluate__samples": 16}, "evaluate"),
        ({"ae__lr": 0.002}, "train-ae"),
        ({"vae__latent_dim": 4}, "train-vae"),
    ],
    ids=["evaluate.samples", "ae.lr", "latent_dim"],
)
def test_dvc_would_rerun_the_one_stage_that_reads_a_param(
    shared: Workspace, param: dict[str, object], stage: str
) -> None:
    """What comes after that stage is decided when it has run, by its outs: see the next test."""
    shared.set_params(**param)
    assert shared.repro("--dry") == [stage]
    shared.run("git", "checkout", "--quiet", ".")


@pytest.mark.usefixtures("record_only")
def test_changed_code_trains_anew_then_evaluates_and_going_back_reruns_nothing(
    shared: Workspace,
) -> None:
    before = shared.read("dvc.lock")
    append("src/generative/models/vae.py", "\n# changed, for one stage alone\n")(shared)
    assert shared.repro("train-vae") == ["train-vae"]
    assert shared.repro("--dry") == ["evaluate"]
    assert shared.read("dvc.lock") != before
    shared.run("git", "checkout", "--quiet", ".")
    assert shared.repro() == [], "the old state comes from the run cache"
    assert shared.read("dvc.lock") == before


def test_a_deleted_model_is_restored_without_training(shared: Workspace) -> None:
    model = shared.path / "models" / "vae.safetensors"
    content = model.read_bytes()
    model.unlink()
    assert shared.repro() == []
    assert model.read_bytes() == content


def script_of(stage: str) -> str:
    return str(STAGES[stage]["cmd"].removeprefix("exec python "))


def deciding(files: Iterable[str]) -> set[str]:
    """Those of the experiment that can decide a result: all that are not known not to."""
    own = {file for file in files if not file.startswith("src/runrecord/")} - NO_RESULT
    return {file for file in own if not (file.endswith("/__init__.py") and is_empty(ROOT / file))}


def is_empty(package: Path) -> bool:
    """Does it hold a docstring and nothing else?"""
    match ast.parse(package.read_text()).body:
        case [ast.Expr(ast.Constant(str()))]:
            return True
    return False


def holds(dep: str, files: Iterable[str]) -> bool:
    """Is one of the files `dep`, or in it?"""
    return any(Path(file).is_relative_to(dep) for file in files)


@pytest.mark.parametrize("stage", STAGES)
def test_deps_hold_all_that_the_stage_imports_and_decides_its_result(
    stage: str, tmp_path: Path
) -> None:
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name)
    # It imports every model, in functions that run where MLflow serves one.
    (tmp_path / SERVING).write_text("")
    imported = imported_files(tmp_path / script_of(stage), tmp_path)
    deps = STAGES[stage]["deps"]
    assert {file for file in deciding(imported) if not any(holds(dep, [file]) for dep in deps)} == (
        set()
    )
    code = [dep for dep in deps if dep.startswith(("src", "stages"))]
    assert [dep for dep in code if not holds(dep, imported)] == []
    assert [dep for dep in code if Path(dep).is_relative_to("src/runrecord")] == []
    assert len(code) <= 15


@pytest.mark.slow
def test_a_second_run_imports_its_deps_alone_and_gives_equal_bytes(
    built: Workspace, workspace: Workspace
) -> None:
    """On one core and shown nowhere, where the first had two and MLflow."""
    probe = workspace.path / "probe.py"
    probe.write_text(
        "import atexit, runpy, sys\n"
        "def show():\n"
        "    for module in list(sys.modules.values()):\n"
        "        print('imported:', getattr(module, '__file__', None))\n"
        "atexit.register(show)\n"
        "sys.path[0] = 'stages'\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    root = workspace.path.resolve()
    for stage in STAGES:
        command = ("python", "probe.py", script_of(stage))
        lines = workspace.run(*command, environment=ONE_CORE | RECORD_ONLY).splitlines()
        prefix = "imported: "
        files = [
            Path(line.removeprefix(prefix)).resolve() for line in lines if line.startswith(prefix)
        ]
        loaded = {str(file.relative_to(root)) for file in files if file.is_relative_to(root)}
        loaded = loaded - {"probe.py"} | {script_of(stage)}
        assert "src/generative/pipeline/stage.py" in loaded, "the workspace's own code has run"
        deps = STAGES[stage]["deps"]
        code = [dep for dep in deps if dep.startswith(("src", "stages"))]
        missing = {file for file in deciding(loaded) if not any(holds(dep, [file]) for dep in deps)}
        assert missing == set()
        assert [dep for dep in code if not holds(dep, loaded)] == []

    outputs = [
        path.relative_to(built.path)
        for folder in ("data", "models", "metrics")
        for path in (built.path / folder).rglob("*")
        if path.is_file() and path.name != ".gitignore"
    ]
    assert len(outputs) == 4 + 3 + 7 + 15 + 1  # data, models, figures, pictures, explorer
    for name in outputs:
        assert workspace.read(str(name)) == built.read(str(name)), name


@pytest.mark.slow
@pytest.mark.usefixtures("record_only")
def test_a_forced_rerun_gives_the_same_hashes_for_all_but_the_records(workspace: Workspace) -> None:
    def hashes() -> set[tuple[str, str]]:
        stages = yaml.safe_load(workspace.read("dvc.lock"))["stages"]
        return {(out["path"], out["md5"]) for stage in stages.values() for out in stage["outs"]}

    before = hashes()
    assert workspace.repro("--force") == list(STAGES)
    assert {path for path, _ in before ^ hashes()} == {
        f"records/{name}" for name in ("download", "ae", "vae", "gan", "evaluation")
    }


@pytest.mark.slow
def test_without_the_adversarial_network_all_else_runs(workspace: Workspace) -> None:
    """The chapter gives no code for it: its stage is taken out, and what names its files."""
    pipeline = yaml.safe_load(workspace.read("dvc.yaml"))
    del pipeline["stages"]["train-gan"]
    evaluate = pipeline["stages"]["evaluate"]
    evaluate["deps"] = [dep for dep in evaluate["deps"] if "gan" not in dep]
    (workspace.path / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    assert "gan" in workspace.params(), "its params may stay"
    workspace.run("generative", "check")
    assert workspace.repro() == [], "to DVC, a dep that is gone is no change"
    assert workspace.repro("--force", "--single-item", "evaluate") == ["evaluate"]
    assert list(json.loads(workspace.read("metrics/evaluation.json"))) == ["ae", "vae"]
