"""`runrecord compare`: what differs between two runs, and nothing else."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import RECORD_ONLY, TOY_TRAIN, Workspace, end_run, new_run

from runrecord.cli.compare import show_comparison
from runrecord.errors import UserError
from runrecord.lookup import find_record
from runrecord.record.reader import Record
from runrecord.verify.compare import Comparison, compare

CODE, DATA = {"src/model.py": "a" * 64}, {"data/set": "b" * 64}
TAGS = {"git.commit": "c" * 40, "dvc.experiment": "one", "python": "3.11.7", "torch": "2.11"}
EPOCHS = [[4.0, 3.0, 2.0], [1.5, 1.25, 1.0]]

Make = Callable[..., Record]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a record in the folder of that name, in a DVC repository without Git."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\nno_scm = true\n")
    monkeypatch.chdir(tmp_path)

    def make(
        name: str,
        *,
        epochs: list[list[float]] = EPOCHS,
        weights: bytes = b"weights",
        pixel: int = 0,
        text: str = "text",
        outs: dict[str, str] | None = None,
        **start: Any,
    ) -> Record:
        given = {"id": name, "params": {"lr": 0.1, "z": 8}, "tags": TAGS, "deps": CODE | DATA}
        run = new_run(tmp_path / name, **(given | start))
        for epoch, losses in enumerate(epochs, start=1):
            run.log({"Train/Loss": losses[-1]}, step=epoch, within={"Train/Loss": losses})
            run.image("samples", np.full((2, 2), pixel if epoch > 1 else 0, np.uint8), step=epoch)
        run.text("report", text)
        (tmp_path / f"{name}.bin").write_bytes(weights)
        run.model(tmp_path / f"{name}.bin", name="model")
        return end_run(tmp_path / name, outs=outs or {"metrics.json": "d" * 64})

    return make


def differing(found: Comparison) -> set[str]:
    """The kinds of things in which two runs differ."""
    return {
        key
        for key, value in found.as_json().items()
        if value and key not in ("tolerance", "verdict")
    }


def test_equal_runs_are_bit_identical_whenever_they_ran(make: Make) -> None:
    found = compare(make("a"), make("b", time=5), 0.01)
    assert found.verdict == "bit-identical"
    assert differing(found) == set()


def test_what_differs_is_named_and_nothing_else(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make("a")
    second = make(
        "b",
        epochs=[[4.0, 3.0001, 2.0], [1.5, 1.25, 1.0001]],
        params={"lr": 0.1000001, "z": 8},
        deps={"src/model.py": "e" * 64} | DATA,
        weights=b"others",
        tags=TAGS | {"python": "3.12.1", "git.commit": "f" * 40, "dvc.experiment": "two"},
        host="elsewhere",
    )
    found = compare(first, second, 0.01)
    assert found.params == {"lr": (0.1, 0.1000001)}
    assert found.code == {"src/model.py": ("a" * 64, "e" * 64)}
    assert found.data == {}
    assert found.environment == {"python": ("3.11.7", "3.12.1"), "host": ("host", "elsewhere")}
    assert found.commits == ("c" * 40, "f" * 40)
    assert found.model is not None
    assert found.model[0] != found.model[1]
    assert found.outs == {}
    assert found.pictures == {}
    (metric,) = found.metrics.values()
    assert (metric.epoch, metric.step) == (1, 2)
    assert metric.first == (3.0, 3.0001)
    assert metric.last == (1.0, 1.0001)
    assert metric.largest == pytest.approx(1e-4, rel=1e-3)
    assert found.verdict == "equal within tolerance"
    assert compare(first, second, 1e-9).verdict == "different"

    show_comparison("a", "b", 0.01, as_json=False)
    shown = capsys.readouterr().out
    for text in ("lr", "0.1000001", "epoch 1, step 2", "Verdict: equal within tolerance"):
        assert text in shown
    assert "Commits: " in shown
    assert not any(line.split()[:2] == ["│", "z"] for line in shown.splitlines())
    show_comparison("a", "b", 0.01, as_json=True)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found.as_json()))


@pytest.mark.parametrize(
    ("change", "where", "verdict"),
    [
        ({"pixel": 9}, {"pictures": {"samples": 2}}, "bit-identical"),
        (
            {"outs": {"metrics.json": "e" * 64, "only.here": "f" * 64}},
            {"outs": {"metrics.json": ("d" * 64, "e" * 64)}},
            "equal within tolerance",
        ),
        ({"params": {"lr": "0.1", "z": 8}}, {"params": {"lr": (0.1, "0.1")}}, "bit-identical"),
        ({"params": {"lr": 0.1}}, {"params": {"z": (8, None)}}, "bit-identical"),
        ({"deps": CODE}, {"data": {"data/set": ("b" * 64, None)}}, "bit-identical"),
        (
            {"deps": DATA | CODE | {"conf/a.yaml": "0" * 64}},
            {"code": {"conf/a.yaml": (None, "0" * 64)}},
            "bit-identical",
        ),
    ],
    ids=["picture", "out", "kind of param", "param", "data", "code that is no .py"],
)
def test_each_kind_of_difference_is_told_apart(
    make: Make, change: dict[str, Any], where: dict[str, Any], verdict: str
) -> None:
    found = compare(make("a"), make("b", **change), 0.01, code=("conf",))
    assert differing(found) == where.keys()
    for kind, expected in where.items():
        assert getattr(found, kind) == expected
    assert found.verdict == verdict


def test_other_text_is_a_difference_of_bytes(make: Make) -> None:
    found = compare(make("a"), make("b", text="other"), 0.01)
    assert found.outs.keys() == {"report"}
    assert found.verdict == "equal within tolerance"


@pytest.mark.parametrize(
    ("epochs", "place", "largest", "verdict"),
    [
        ([[4.0, 3.0, 2.0]], (2, None), math.inf, "different"),
        ([*EPOCHS, [1.0]], (3, None), math.inf, "different"),
        ([[4.0, 3.0, 2.0], [1.5, 1.25, math.nan]], (2, 3), math.inf, "different"),
        ([[4.0, 3.0, 2.0], [1.5, 1.25, math.inf]], (2, 3), math.inf, "different"),
        ([[4.0, 3.0, 2.0], [1.5, 1.25, -1.0]], (2, 3), 2.0, "different"),
        ([[4.0, 3.0, 2.0], [1.5, 1.0]], (2, 2), 0.0, "equal within tolerance"),
        ([[4.0, 3.0, 2.0], [1.25, 1.0]], (2, 1), 0.0, "equal within tolerance"),
        ([[9.0, 3.0, 2.0], [1.5, 1.25, 1.0]], (1, 1), 0.0, "equal within tolerance"),
    ],
    ids=[
        *("epoch missing", "epoch more", "NaN", "infinity", "sign"),
        *("steps missing", "first step missing", "one step"),
    ],
)
def test_where_a_metric_differs_first_and_by_how_much(
    make: Make, epochs: list[list[float]], place: tuple[int, int], largest: float, verdict: str
) -> None:
    found = compare(make("a"), make("b", epochs=epochs), 0.01)
    metric = found.metrics["Train/Loss"]
    assert (metric.epoch, metric.step) == place
    assert metric.largest == largest
    assert found.verdict == verdict


def test_nan_and_infinity_are_themselves(make: Make) -> None:
    odd = [[math.nan, math.inf, -math.inf], [math.nan]]
    assert compare(make("a", epochs=odd), make("b", epochs=odd), 0.01).verdict == "bit-identical"
    other = [[math.nan, math.inf, math.inf], [math.nan]]
    found = compare(make("c", epochs=odd), make("d", epochs=other), 0.01)
    assert (found.metrics["Train/Loss"].epoch, found.metrics["Train/Loss"].step) == (1, 3)
    assert found.verdict == "different"


def test_an_evaluations_metrics_are_compared_by_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    found = []
    for name, value in (("a", 1.0), ("b", 1.5)):
        run = new_run(tmp_path / name, id=name, stage="evaluate")
        curve = {"KL by unit": [(1, 0.5), (2, value)]}
        run.evaluation("vae", tmp_path / "model.bin", {"ELBO": value}, series=curve)
        run.evaluation("ae", tmp_path / "model.bin", {"ELBO": 3.0})
        found.append(end_run(tmp_path / name))
    metrics = compare(found[0], found[1], 0.01).metrics
    assert {name: metric.epoch for name, metric in metrics.items()} == {
        "vae/ELBO": 0,
        "vae/KL by unit": 2,
    }
    assert metrics["vae/ELBO"].first == (1.0, 1.5)


def test_what_a_record_says_cannot_steer_the_terminal(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make("a")
    make(
        "b",
        params={"lr": "\x1b[1A\x1b[2KVerdict: bit-identical", "z": 8},
        tags=TAGS | {"python": "3\x1b[2J\x1b]0;owned\x07"},
        host="\x1b[31mhost",
        deps={"src/\x1b[31m.py": "0" * 64},
        outs={"\x1b[31mout": "0" * 64},
    )
    show_comparison("a", "b", 0.01, as_json=False)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\ufffd[31mhost" in shown
    assert [line for line in shown.splitlines() if line.startswith("Verdict")] == [
        "Verdict: bit-identical: every metric at every step, and what it wrote."
    ]


@pytest.mark.parametrize("commit", ["--output={victim}", "HEAD", "-p", "c" * 39, ""])
def test_a_record_whose_commit_is_an_option_is_refused(
    make: Make, tmp_path: Path, commit: str
) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    make("a")
    start = tmp_path / "a/run.json"
    content = json.loads(start.read_text())
    content["tags"]["git.commit"] = commit.format(victim=victim)
    start.write_text(json.dumps(content))
    make("b")
    with pytest.raises(UserError, match=r"git\.commit") as refusal:
        show_comparison("a", "b", 0.01, as_json=False)
    assert "a: its record cannot be used: " in str(refusal.value)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["nothing", "HEAD:gan", "--all", "a/b", "../x", ""])
def test_a_run_that_is_not_known_is_one_sentence(built_toy: Workspace, name: str) -> None:
    with pytest.raises(UserError) as refusal:
        find_record(built_toy.path, name)
    sentence = str(refusal.value)
    assert sentence.startswith(f"{name}: no record of such a run")
    assert "REVISION:WHAT" in sentence, "it says what can be named"
    assert len(sentence.splitlines()) == 1


def test_of_several_runs_one_has_to_be_named(built_toy: Workspace) -> None:
    with pytest.raises(UserError) as refusal:
        find_record(built_toy.path, "HEAD")
    sentence = str(refusal.value)
    assert sentence.startswith("HEAD: has 2 records (train, evaluate); name one")
    assert "HEAD:train" in sentence


def test_a_rerun_of_the_command_line_is_bit_identical(toy: Workspace) -> None:
    toy.run(*TOY_TRAIN, environment=RECORD_ONLY)
    output = toy.run("runrecord", "compare", "HEAD:train", "records/train")
    commits, *changed, _, verdict = output.splitlines()
    assert commits.startswith("Commits: "), "of the results, which came later"
    assert [line.split("|")[0].strip() for line in changed] == ["dvc.lock", "metrics.json"]
    assert verdict == "Verdict: bit-identical: every metric at every step, and what it wrote."
    with (toy.path / "train.py").open("a") as file:
        file.write("# changed\n")
    toy.set_params(train__lr=0.50001)
    toy.run(*TOY_TRAIN, environment=RECORD_ONLY)
    found = json.loads(toy.run("runrecord", "compare", "HEAD:train", "records/train", "--json"))
    assert found["params"] == {"train.lr": [0.5, 0.50001]}
    assert list(found["code"]) == ["train.py"]
    assert found["data"] == {}
    assert found["model"][0] != found["model"][1]
    metric = found["metrics"]["Length"]
    assert (metric["epoch"], metric["step"]) == (1, 1), "it is in every step"
    assert 0 < metric["largest"] < 1e-4
    tight = ("compare", "HEAD:train", "records/train", "--tolerance", "1e-9", "--json")
    assert json.loads(toy.run("runrecord", *tight))["verdict"] == "different"


@pytest.mark.slow
def test_an_experiment_is_found_by_its_name(workspace: Workspace) -> None:
    workspace.run(
        *("dvc", "exp", "run", "--temp", "--name", "smaller", "-S", "vae.latent_dim=4"),
        "evaluate",
    )
    found = compare_in(workspace, "smaller:vae", "HEAD:vae")
    assert found["params"] == {"latent_dim": [4, 8]}
    found = compare_in(workspace, "smaller:evaluation", "HEAD:evaluation")
    assert {"models/vae.safetensors", "metrics/vae_history.csv"} == set(found["data"])
    assert {name.partition("/")[0] for name in found["metrics"]} == {"vae"}


def compare_in(workspace: Workspace, first: str, second: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        workspace.run("runrecord", "compare", first, second, "--json")
    )
    return found
