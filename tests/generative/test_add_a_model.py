"""docs/add-a-model.md, done: each of its blocks put where the page says, then its commands."""

import json

import pytest
from mlflow_views import runs
from workspaces import ROOT, Workspace, code_blocks, verify

from runrecord.record.reader import Record, files_in, view

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_fourth_model_is_added_as_the_page_says(workspace: Workspace) -> None:
    page = (ROOT / "docs" / "add-a-model.md").read_text()
    model, imported, registry, stage = code_blocks(page, "python")
    block, in_pipeline, evaluated = code_blocks(page, "yaml")
    (commands,) = code_blocks(page)

    def write(name: str, content: str) -> None:
        assert f"`{name}`" in page, "the page says where it goes"
        (workspace.path / name).write_text(content)

    def change(name: str, old: str, new: str) -> None:
        text = workspace.read(name).decode()
        assert text.count(old) == 1
        write(name, text.replace(old, new))

    write("src/generative/models/bvae.py", model)
    write("stages/train_bvae.py", stage)
    registry_file = "src/generative/models/registry.py"
    text = workspace.read(registry_file).decode()
    (before,) = (line + "\n" for line in text.splitlines() if line.startswith("REGISTRY"))
    change(registry_file, before, registry)
    after = "from generative.models.gan import GAN\n"
    change(registry_file, after, imported + after)
    write("params.yaml", workspace.read("params.yaml").decode() + block)
    change("dvc.yaml", "\n  evaluate:\n", f"\n{in_pipeline}\n  evaluate:\n")
    before = "    - metrics/gan_history.csv\n    - src/"
    change("dvc.yaml", before, before.replace("    - src/", f"{evaluated}    - src/"))
    workspace.set_params(bvae__epochs=2, evaluate__importance_samples=20)

    lines = [line.partition("#")[0] for line in commands.splitlines()]
    check, commit, (repro, report, verified) = lines[0], lines[1], map(str.split, lines[2:])
    # The program that is installed has the models of this repository, not of the copy.
    assert workspace.run(*check.split(), PYTHONPATH=str(workspace.path / "src")) == ""
    workspace.run("sh", "-c", commit)
    said = workspace.run(*repro)
    ran = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]
    assert ran == ["train-bvae", "evaluate"]
    workspace.run("git", "commit", "--quiet", "--all", "--message=its results")
    metrics = json.loads(workspace.read("metrics/evaluation.json"))
    assert list(metrics) == ["ae", "vae", "gan", "bvae"]
    assert metrics["bvae"].keys() == metrics["vae"].keys()
    record = view(Record(files_in(workspace.path / "records/evaluation")))
    assert {"bvae_samples", "bvae_traversals"} <= record.last_images().keys()
    workspace.run(*report)
    assert b"bvae" in workspace.read("report.html")
    assert verified[:2] == ["runrecord", "verify"]
    assert "Verdict: bit-identical" in verify(workspace, verified[2])
    assert len(runs(workspace, "train-bvae")) == 1
