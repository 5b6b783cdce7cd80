"""`runrecord compare`: what differs between two runs, and nothing else."""

import json
from typing import Any

import pytest
from helpers import Workspace, runs, spool


def compare(workspace: Workspace, first: str, second: str, *options: str) -> dict[str, Any]:
    output = workspace.run("runrecord", "compare", first, second, "--json", *options)
    found: dict[str, Any] = json.loads(output)
    return found


def test_a_rerun_is_bit_identical(workspace: Workspace) -> None:
    workspace.run("python", "stages/train_vae.py")
    found = compare(workspace, "HEAD:vae", "records/vae")
    assert found["verdict"] == "bit-identical"
    assert not any(found[key] for key in ("code", "params", "data", "metrics", "model"))
    output = workspace.run("runrecord", "compare", "HEAD:vae", "records/vae")
    assert "Verdict: bit-identical: every metric at every step, and what it wrote." in output


def test_what_differs_is_named_and_nothing_else(workspace: Workspace) -> None:
    with (workspace.path / "src/generative/models/vae.py").open("a") as file:
        file.write("# changed\n")
    workspace.set_params(vae__lr=0.0010001)
    workspace.run("python", "stages/train_vae.py")
    (run,) = runs(workspace)
    (folder,) = spool(workspace)
    found = compare(workspace, "HEAD:vae", run.info.run_id)
    assert found == compare(workspace, "HEAD:vae", folder.name)
    assert found["params"] == {"lr": [0.001, 0.0010001]}
    assert list(found["code"]) == ["src/generative/models/vae.py"]
    assert found["data"] == {}
    assert found["model"][0] != found["model"][1]
    metric = found["metrics"]["Train/Total Loss"]
    assert (metric["epoch"], metric["step"]) == (1, 2), "the first step is taken before any update"
    assert 0 < metric["largest"] < 1e-4
    assert found["verdict"] == "equal within tolerance"
    tight = compare(workspace, "HEAD:vae", folder.name, "--tolerance", "1e-9")
    assert tight["verdict"] == "different"
    output = workspace.run("runrecord", "compare", "HEAD:vae", "records/vae")
    for text in ("lr", "0.0010001", "epoch 1, step 2", "Verdict: equal within tolerance"):
        assert text in output
    assert "latent_dim" not in output


@pytest.mark.slow
def test_an_experiment_is_found_by_its_name(workspace: Workspace) -> None:
    workspace.run(
        *("dvc", "exp", "run", "--temp", "--name", "smaller", "-S", "vae.latent_dim=4"),
        "evaluate",
    )
    found = compare(workspace, "smaller:vae", "HEAD:vae")
    assert found["params"] == {"latent_dim": [4, 8]}
    found = compare(workspace, "smaller:evaluation", "HEAD:evaluation")
    assert {"models/vae.safetensors", "metrics/vae_history.csv"} == set(found["data"])
    assert {name.partition("/")[0] for name in found["metrics"]} == {"vae"}


def test_a_run_that_is_not_known_is_one_sentence(workspace: Workspace) -> None:
    output = workspace.run("runrecord", "compare", "nothing", "HEAD:vae", status=2)
    assert output.startswith("error: nothing: no record of such a run is in the run store, DVC's")
    output = workspace.run("runrecord", "compare", "HEAD:gan", "HEAD:vae", status=2)
    assert output.startswith("error: HEAD:gan: no record of such a run is in the run store, ")
    assert len(output.splitlines()) == 1
    output = workspace.run("runrecord", "compare", "HEAD", "HEAD:vae", status=2)
    assert output.startswith("error: HEAD: has 3 records (train-ae, train-vae, evaluate); name one")


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("--output={victim}", "the tag 'git.commit' is no commit id"),
        ("HEAD", "the tag 'git.commit' is no commit id"),
        ("-p", "the tag 'git.commit' is no commit id"),
    ],
)
def test_a_record_whose_commit_is_an_option_is_refused(
    workspace: Workspace, tag: str, why: str
) -> None:
    victim = workspace.path / "victim.txt"
    victim.write_text("precious")
    start = workspace.path / "records/vae/run.json"
    content = json.loads(start.read_text())
    content["tags"]["git.commit"] = tag.format(victim=victim)
    start.chmod(0o644)
    start.write_text(json.dumps(content))
    output = workspace.run("runrecord", "compare", "records/vae", "HEAD:vae", status=2)
    assert why in output
    assert victim.read_text() == "precious"


def test_what_a_record_says_cannot_steer_the_terminal(workspace: Workspace) -> None:
    start = workspace.path / "records/vae/run.json"
    content = json.loads(start.read_text())
    content["tags"]["python"] = "3\x1b[2J\x1b]0;owned\x07"
    content["params"]["optimizer"] = "\x1b[1A\x1b[2KVerdict: bit-identical"
    content["host"] = "\x1b[31mhost"
    start.chmod(0o644)
    start.write_text(json.dumps(content))
    output = workspace.run("runrecord", "compare", "records/vae", "HEAD:vae")
    assert "\x1b" not in output
    assert "\ufffd[31mhost" in output
