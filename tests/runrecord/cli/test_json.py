"""`--json`: each command's one document on standard output, and its status as without it."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from workspaces import RECORD_ONLY, Workspace

from records import end_run, new_run
from runrecord.cli import main
from runrecord.store.runs import run_dir

Document = Callable[..., dict[str, Any]]


def refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


@pytest.fixture
def document(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Document:
    """What a command prints with `--json`, as a strict parser has it."""

    def run(*arguments: str, status: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["runrecord", *arguments, "--json"])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == status, said
        found: dict[str, Any] = json.loads(said.out, parse_constant=refuse)
        return found

    return run


@pytest.fixture
def here(toy: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The toy project, which this process works in, with a run of each stage in its store."""
    toy.run("dvc", "repro", "--force", environment=RECORD_ONLY)
    monkeypatch.chdir(toy.path)
    for name in ("DVC_ROOT", "DVC_STAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return toy


TRAIN = ("show", "records/train")
COMMANDS: dict[str, tuple[tuple[str, ...], int, set[str]]] = {
    "runs": (("runs",), 0, {"runs"}),
    "show": (
        TRAIN,
        0,
        {"id", "run", "params", "metrics", "damaged", "wrote", "read", "tags", "machine"},
    ),
    "which": (("which", "model.bin"), 0, {"sha256", "runs"}),
    "which of none": (("which", "train.py"), 1, {"sha256", "runs"}),
    "doctor": (("doctor",), 1, {"checks"}),
    "compare": (
        ("compare", "HEAD:train", "records/train"),
        0,
        {"verdict", "largest", "tolerance", "compared", "numbers", "not_compared", "differences"},
    ),
    "verify": (("verify", "records/train"), 0, {"runs"}),
    "gc": (("gc", "--keep", "1"), 0, {"runs", "stay", "removed"}),
    "sync": (("sync",), 0, {"mlflow"}),
    "reap": (("reap",), 0, {"closed"}),
    "report": (("report",), 0, {"page", "runs"}),
    "report as Markdown": (("report", "--markdown"), 0, {"page", "runs"}),
    "refused": (("show", "nothing"), 2, set()),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_one_document_and_ends_as_without_it(
    name: str, here: Workspace, document: Document, program: Callable[..., str]
) -> None:
    command, status, keys = COMMANDS[name]
    found = document(*command, status=status)
    assert found.keys() == keys
    if name not in ("sync", "verify"):  # it is done; it takes long
        program(*command, status=status)
    match name:
        case "runs":
            assert [one["status"] for one in found["runs"]] == ["FINISHED"] * 2
            assert found["runs"][0].keys() == {
                *("run", "status", "begun", "seconds", "commit", "experiment")
            }
        case "show":
            assert found["params"] == {"train.epochs": 8, "train.lr": 0.5}
            assert found["wrote"].keys() == {"model.bin", "metrics.json"}
            assert found["metrics"]["Length"] == json.loads(here.read("metrics.json"))["Length"]
        case "which":
            assert found["runs"][0]["run"].startswith("train-")
        case "which of none":
            assert found["runs"] == []
        case "doctor":
            assert {one["check"]: one["ok"] for one in found["checks"]}["run store"] is False
        case "compare":
            assert found["verdict"] in ("bit-identical", "equal within tolerance")
        case "verify":
            (run,) = found["runs"]
            assert run["verdict"] == run["comparison"]["verdict"] != "different"
        case "gc":
            assert found == {"runs": [], "stay": 0, "removed": 0}
        case "sync":
            assert found["mlflow"]["created"] == 2
        case "report as Markdown":
            assert found["page"].startswith("### train\n")


def test_a_run_that_differs_says_where_in_json(here: Workspace, document: Document) -> None:
    (here.path / "train.py").write_text(here.read("train.py").decode().replace("0)", "1)", 1))
    here.run("dvc", "repro", environment=RECORD_ONLY)
    found = document("compare", "HEAD:train", "records/train")
    assert found["verdict"] == "different"
    assert {"code", "metric", "model"} <= {one["kind"] for one in found["differences"]}
    metric = next(one for one in found["differences"] if one["kind"] == "metric")
    assert metric["state"] == "differs"
    assert isinstance(metric["first"], float)


def test_values_that_json_lacks_are_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: Document
) -> None:
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    run = new_run(run_dir(tmp_path, "odd"), id="odd", params={"x": math.nan, "y": [-math.inf]})
    run.log({"up": math.inf, "none": math.nan})
    end_run(run_dir(tmp_path, "odd"))
    found = document("show", "odd")
    assert found["metrics"] == {"none": "NaN", "up": "Infinity"}
    assert found["params"] == {"x": "NaN", "y": ["-Infinity"]}
