"""`dvc repro` rebuilds what changed, all of it and nothing else, and is followed as it does."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from imports import imported_files
from workspaces import RECORD_ONLY, ROOT, Workspace, history, wait_until

from generative.pipeline.stage import epochs_shown

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


def append(workspace: Workspace, name: str, text: str) -> None:
    with (workspace.path / name).open("a") as file:
        file.write(text)


def reverse_params(workspace: Workspace) -> None:
    """The same params in another order, with a comment."""
    document = workspace.params()
    turned = {
        block: dict(reversed(values.items())) if isinstance(values, dict) else values
        for block, values in reversed(list(document.items()))
    }
    text = "# another comment\n" + yaml.safe_dump(turned, sort_keys=False)
    (workspace.path / "params.yaml").write_text(text)


def test_what_no_stage_reads_reruns_nothing_and_what_is_lost_is_restored(
    shared: Workspace,
) -> None:
    model = shared.path / "models" / "vae.safetensors"
    lock, content = shared.read("dvc.lock"), model.read_bytes()
    append(shared, "README.md", "\nmore\n")
    append(shared, "src/runrecord/run/start.py", "\n# changed\n")
    reverse_params(shared)
    model.unlink()
    assert shared.repro() == []
    assert model.read_bytes() == content
    shared.run("git", "checkout", "--quiet", ".")
    assert shared.read("dvc.lock") == lock


def test_dvc_would_rerun_the_one_stage_that_reads_a_param(shared: Workspace) -> None:
    """What comes after that stage is decided when it has run, by its outs: see the next test."""
    shared.set_params(ae__lr=0.002)
    assert shared.repro("--dry") == ["train-ae"]
    shared.set_params(evaluate__samples=16)
    assert shared.repro("--dry") == ["train-ae", "evaluate"]
    shared.run("git", "checkout", "--quiet", ".")


def test_changed_code_trains_anew_then_evaluates_and_going_back_reruns_nothing(
    shared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in RECORD_ONLY.items():
        monkeypatch.setenv(name, value)
    before = shared.read("dvc.lock")
    append(shared, "src/generative/models/vae.py", "\n# changed, for one stage alone\n")
    assert shared.repro("train-vae") == ["train-vae"]
    assert shared.repro("--dry") == ["evaluate"]
    assert shared.read("dvc.lock") != before
    shared.run("git", "checkout", "--quiet", ".")
    assert shared.repro() == [], "the old state comes from the run cache"
    assert shared.read("dvc.lock") == before


def script_of(stage: str) -> str:
    return str(STAGES[stage]["cmd"].removeprefix("exec python "))


def decides(file: str) -> bool:
    """Can a file decide a result? All of the experiment that is not known not to, and has code."""
    if file.startswith("src/runrecord/") or file in NO_RESULT:
        return False
    match ast.parse((ROOT / file).read_text()).body:
        case [ast.Expr(ast.Constant(str()))]:
            return False
    return True


@pytest.mark.parametrize("stage", STAGES)
def test_deps_hold_all_that_the_stage_imports_and_decides_its_result(
    stage: str, tmp_path: Path
) -> None:
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name)
    # It imports every model, in functions that run where MLflow serves one.
    (tmp_path / SERVING).write_text("")
    imported = {Path(file) for file in imported_files(tmp_path / script_of(stage), tmp_path)}
    deps = STAGES[stage]["deps"]
    deciding = [file for file in imported if decides(str(file))]
    assert [file for file in deciding if not any(map(file.is_relative_to, deps))] == []
    code = [dep for dep in deps if dep.startswith(("src", "stages"))]
    assert [dep for dep in code if not any(file.is_relative_to(dep) for file in imported)] == []
    assert [dep for dep in code if Path(dep).is_relative_to("src/runrecord")] == []
    assert len(code) <= 15


@pytest.mark.slow
def test_a_second_run_gives_equal_bytes(built: Workspace, workspace: Workspace) -> None:
    """On one core and shown nowhere, where the first had two and MLflow."""
    for stage in STAGES:
        workspace.run("python", script_of(stage), environment=ONE_CORE | RECORD_ONLY)
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


def test_metrics_and_history_grow_until_the_training_ends(workspace: Workspace) -> None:
    metrics = workspace.path / "metrics/vae.json"
    keys = json.loads(metrics.read_bytes()).keys()
    workspace.set_params(vae__epochs=100_000)
    metrics.unlink()
    with workspace.start("dvc", "repro", "train-vae", **RECORD_ONLY) as process:
        try:
            wait_until(metrics.exists)
            first = json.loads(metrics.read_bytes())
            assert first.keys() == keys
            wait_until(lambda: json.loads(metrics.read_bytes())["epoch"] > first["epoch"])
            output = workspace.run("dvc", "exp", "show", "--json")
            (now, *_) = json.loads(output[output.index("[{") :])
            assert now["data"]["metrics"]["metrics/vae.json"]["data"]["epoch"] > first["epoch"]
            epochs = [row["epoch"] for row in history(workspace, "vae")]
            assert epochs == [str(n + 1) for n in range(len(epochs))]
        finally:
            process.kill()
        assert process.stdout is not None
        process.stdout.read()  # until the training has ended, too
    for name in ("metrics/vae.json", "metrics/vae_history.csv"):
        assert not (workspace.path / name).exists(), "nobody takes them for results"


def test_the_bar_of_a_resumed_training_stands_at_its_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with epochs_shown("vae", 30) as show:
        show(13, {}, 1.0)
    assert re.search(r"(?<!epoch )\b13/30", re.sub(r"\x1b\[[\d;?]*\w", "", capsys.readouterr().out))
