"""`runrecord compare`: what differs between two runs, and nothing else."""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from records import end_run, new_run
from runrecord import Run
from runrecord.cli.console import json_document
from runrecord.cli.runs import find_record
from runrecord.cli.verify import show_comparison
from runrecord.errors import UserError
from runrecord.files import sha256
from runrecord.record.reader import Record
from runrecord.verify.compare import Comparison
from runrecord.verify.compare import compare as compare_runs

CODE, DATA = {"src/model.py": "a" * 64}, {"data/set": "b" * 64}
TAGS = {
    **{"git.commit": "c" * 40, "dvc.experiment": "one"},
    **{"python": "3.11.7", "torch": "2.11", "machine.cpu": "one", "job": "16", "gpu": "other"},
}
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
        (tmp_path / "model.bin").write_bytes(weights)
        run.model(tmp_path / "model.bin")
        return end_run(tmp_path / name, outs=outs or {"metrics.json": "d" * 64})

    return make


def compare(
    first: Record, second: Record, tolerance: float, code: Sequence[str] = ()
) -> Comparison:
    return compare_runs(first, second, tolerance, code, packages=("torch",))


def differing(found: Comparison) -> dict[tuple[str, str], tuple[object, object]]:
    """What differs: the values by kind and title, the first of each; not names of the runs."""
    pairs: dict[tuple[str, str], tuple[object, object]] = {}
    for one in found.all:
        pairs.setdefault((one.place.kind, one.place.title), (one.first, one.second))
    return pairs


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
    assert differing(found) == {
        ("commit", "commit"): ("c" * 40, "f" * 40),
        ("code", "src/model.py"): ("a" * 64, "e" * 64),
        ("param", "lr"): ("0.1", "0.1000001"),
        ("environment", "python"): ("3.11.7", "3.12.1"),
        ("tag", "host"): ("host", "elsewhere"),
        ("value within a step", "Train/Loss"): (3.0, 3.0001),
        ("metric", "Train/Loss"): (1.0, 1.0001),
        ("model", "model"): (sha256(b"weights"), sha256(b"others")),
    }
    (step, mean) = found.of("value within a step")[0], found.of("metric")[0]
    assert (step.place.step, step.index, mean.place.step) == (1, 1, 2)
    assert found.largest == pytest.approx(1e-4, rel=1e-3)
    assert found.verdict == "equal within tolerance"
    assert compare(first, second, 1e-9).verdict == "different"

    show_comparison("a", "b", 0.01)
    shown = capsys.readouterr().out
    for text in ("lr", "0.1000001", "Loss at step 1, value 2", "Verdict: equal within tolerance"):
        assert text in shown
    assert "Commits" in shown
    assert not any(line.split()[:2] == ["│", "z"] for line in shown.splitlines())
    with json_document():
        show_comparison("a", "b", 0.01)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found.as_json()))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"pixel": 9}, ("picture", "samples", 2)),
        ({"weights": b"others"}, ("model", "model", 0)),
        ({"outs": {"metrics.json": "e" * 64}}, ("out", "metrics.json", None)),
        ({"outs": {"metrics.json": "d" * 64, "only.here": "f" * 64}}, ("out", "only.here", None)),
    ],
    ids=["picture", "model", "out", "extra out"],
)
@pytest.mark.parametrize("tags", [{}, {"python": "3.12.1"}], ids=["same machine", "another"])
def test_files_that_differ_where_no_number_does_are_different_anywhere(
    make: Make, change: dict[str, Any], where: tuple[str, str, int | None], tags: dict[str, str]
) -> None:
    found = compare(make("a"), make("b", tags=TAGS | tags, **change), 0.01)
    assert [one.place[:3] for one in found.results] == [where]
    assert found.verdict == "different"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"time": 5}, set()),
        ({"params": {"lr": 0.1, "z": 8.0}}, set()),  # 8 is 8.0, as DVC has it
        ({"params": {"lr": "0.1", "z": 8}}, {("param", "lr")}),
        ({"params": {"lr": 0.1}}, {("param", "z")}),
        ({"deps": CODE}, {("data", "data/set")}),
        ({"deps": DATA | CODE | {"conf/a.yaml": "0" * 64}}, {("code", "conf/a.yaml")}),
    ],
    ids=["nothing", "form of a number", "kind of param", "param", "data", "code that is no .py"],
)
def test_what_went_in_is_told_apart_and_leaves_results_bit_identical(
    make: Make, change: dict[str, Any], where: set[tuple[str, str]]
) -> None:
    found = compare(make("a"), make("b", **change), 0.01, code=("conf",))
    assert differing(found).keys() == where
    assert found.verdict == "bit-identical"


HALF = [[4.0, 3.0, 2.0], [1.5, 1.25, 1.0001]]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"tags": TAGS | {"python": "3.12.1"}}, "equal within tolerance"),
        ({"tags": TAGS | {"torch": "2.12"}}, "equal within tolerance"),
        ({"tags": TAGS | {"machine.cpu": "another"}}, "equal within tolerance"),
        ({"tags": {"torch": "2.11"}}, "different"),
        ({"tags": TAGS | {"env.OPENBLAS_NUM_THREADS": "1"}}, "equal within tolerance"),
        ({}, "different"),
        ({"host": "elsewhere"}, "different"),
        ({"tags": TAGS | {"job": "17", "gpu": "mine"}}, "different"),
        ({"tags": TAGS | {"env.HOME": "/home"}}, "different"),
        ({"tags": TAGS | {"mlflow": "4"}}, "different"),
        ({"tags": TAGS | {"python": "3.12.1"}, "pixel": 9}, "equal within tolerance"),
        ({"tags": TAGS | {"python": "3.12.1"}, "text": "other"}, "equal within tolerance"),
        ({"tags": TAGS | {"python": "3.12.1"}, "outs": {"other": "e" * 64}}, "different"),
    ],
    ids=[
        *("python", "package", "processor", "what one record does not tell", "variable"),
        *("nothing", "host", "a person's tag"),
        *("variable of no number", "package that shows", "picture of that step"),
        *("text where there are no numbers", "another out"),
    ],
)
def test_only_the_environment_explains_numbers_that_differ_a_little(
    make: Make, change: dict[str, Any], verdict: str
) -> None:
    found = compare(make("a"), make("b", epochs=HALF, **change), 0.01)
    assert 0 < found.largest < 0.01
    assert found.verdict == verdict


Log = Callable[[Run, float], None]
"""What a run logs that differs by a little, by a small number."""


def evaluate(run: Run, little: float) -> None:
    run.log({"loss": 1.0}, step=0)
    run.log({"loss": 1.0}, step=5)
    run.evaluation("m", "model.bin", {"ELBO": 1 + little}, {"curve": [(5, 1 + little)]})


def measure(run: Run, little: float) -> None:
    run.log({"loss": 1 + little}, step=5)


@pytest.mark.parametrize(
    ("log", "step", "verdict"),
    [
        (evaluate, 5, "different"),
        (evaluate, 0, "different"),
        (measure, 7, "different"),
        (measure, 5, "equal within tolerance"),
        (measure, 0, "equal within tolerance"),
        (lambda run, little: run.evaluation("m", "model.bin", {"E": 1 + little}), 0, "equal"),
    ],
    ids=["curve", "evaluation", "step without numbers", "own step", "no step", "evaluation alone"],
)
def test_a_file_may_differ_only_where_numbers_of_its_own_step_do(
    tmp_path: Path, log: Log, step: int, verdict: str
) -> None:
    found, model = [], tmp_path / "model.bin"
    model.write_bytes(b"weights")
    for name, little in (("a", 0.0), ("b", 1e-6)):
        run = new_run(tmp_path / name, id=name, tags={"python": name})
        with chdir(tmp_path):
            log(run, little)
        run.text("text", name, step=step)
        found.append(end_run(tmp_path / name))
    assert compare(found[0], found[1], 0.01).verdict.startswith(verdict)


@pytest.mark.usefixtures("make")
@pytest.mark.parametrize("end", [{}, {"status": "FAILED", "message": "ValueError: 1"}])
def test_where_nothing_could_be_compared_nothing_is_called_equal(
    end: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        new_run(tmp_path / name, id=name)
        end_run(tmp_path / name, **end)
    show_comparison("a", "b", 0.01)
    assert "Verdict: nothing to compare: " in capsys.readouterr().out
    with json_document():
        show_comparison("a", "b", 0.01)
    assert json.loads(capsys.readouterr().out)["verdict"] == "nothing to compare"


def test_of_runs_that_did_not_finish_outs_are_not_compared_and_the_error_is(
    tmp_path: Path,
) -> None:
    found = []
    for name, error in (("a", "ValueError: 1"), ("b", "ValueError: 2"), ("c", "ValueError: 1")):
        new_run(tmp_path / name, id=name).log({"loss": 1.0})
        found.append(end_run(tmp_path / name, status="FAILED", message=error))
    one, other = (compare(found[0], second, 0.01) for second in found[1:])
    assert (one.verdict, other.verdict) == ("different", "bit-identical")
    assert one.results[0].first == "FAILED: ValueError: 1"
    assert other.not_compared == ("outs, which are recorded of runs that finish",)


@pytest.mark.parametrize("damaged", ["b", "ab"], ids=["one", "both"])
@pytest.mark.parametrize("damage", ["altered", "deleted"])
def test_a_file_of_a_record_that_is_gone_or_altered_is_named_and_never_bit_identical(
    make: Make, damage: str, damaged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        make(name, pixel=9)
        one, other = sorted((tmp_path / name / "images").iterdir())
        if name in damaged and damage == "altered":
            one.write_bytes(other.read_bytes())
        elif name in damaged:
            one.unlink()
    show_comparison("a", "b", 0.01)
    said = capsys.readouterr().out
    assert f"different: {len(damaged)} results differ" in said
    why = "the record has no such file" if damage == "deleted" else "its SHA-256 is another"
    row = next(line for line in said.splitlines() if f"images/{one.name} of b" in line)
    assert why in row


@pytest.mark.parametrize(
    ("epochs", "place", "state", "largest"),
    [
        ([[4.0, 3.0, 2.0]], ("metric", 2, 0), "missing", math.inf),
        ([[4.0, 3.0, 2.0], [1.5, 1.25, math.nan]], ("metric", 2, 0), "differs", math.inf),
        ([[4.0, 3.0, 2.0], [1.5, 1.25, -1.0]], ("metric", 2, 0), "differs", 2.0),
        ([[9.0, 3.0, 2.0], [1.5, 1.25, 1.0]], ("value within a step", 1, 0), "differs", 5 / 9),
    ],
    ids=["epoch missing", "NaN", "sign", "one step"],
)
def test_where_a_metric_differs_first_and_by_how_much(
    make: Make,
    epochs: list[list[float]],
    place: tuple[str, int, int],
    state: str,
    largest: float,
) -> None:
    found = compare(make("a"), make("b", epochs=epochs), 0.01)
    first = found.results[0]
    assert (first.place.kind, first.place.step, first.index, first.state) == (*place, state)
    assert found.largest == largest
    assert found.verdict == "different"


def test_zero_and_its_negative_are_two_numbers(make: Make) -> None:
    found = compare(make("a", epochs=[[0.0]]), make("b", epochs=[[-0.0]]), 0.01)
    assert (found.verdict, found.largest) == ("different", 0.0)


@pytest.mark.parametrize("name", ["nothing", "HEAD:gan", "--all", "../x", ""])
def test_a_run_that_is_not_known_is_one_sentence(here: Path, name: str) -> None:
    with pytest.raises(UserError) as refusal:
        find_record(here, name)
    sentence = str(refusal.value)
    assert sentence.startswith(f"{name}: no record of such a run")
    assert "REVISION:WHAT" in sentence, "it says what can be named"
    assert len(sentence.splitlines()) == 1
