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


def test_a_command_prints_one_document(here: Workspace, document: Document) -> None:
    found = document("runs")
    assert found.keys() == {"runs"}
    assert [one["status"] for one in found["runs"]] == ["FINISHED"] * 2
    assert {*found["runs"][0]} == {"run", "status", "begun", "seconds", "commit", "experiment"}
    found = document("show", "records/train")
    keys = {"id", "run", "params", "metrics", "damaged", "wrote", "read", "tags", "machine"}
    assert found.keys() == keys
    assert found["params"] == {"train.epochs": 8, "train.lr": 0.5}
    assert found["wrote"].keys() == {"model.bin", "metrics.json"}
    assert found["metrics"]["Length"] == json.loads(here.read("metrics.json"))["Length"]
    found = document("which", "model.bin")
    assert found.keys() == {"sha256", "runs"}
    assert found["runs"][0]["run"].startswith("train-")
    assert document("which", "train.py", status=1)["runs"] == []
    found = document("doctor", status=1)
    assert {one["check"]: one["ok"] for one in found["checks"]}["run store"] is False
    (run,) = document("verify", "records/train")["runs"]
    assert run["verdict"] == run["comparison"]["verdict"] != "different"
    assert document("gc", "--keep", "1") == {"runs": [], "stay": 0, "removed": 0}
    assert document("sync")["mlflow"]["created"] == 2
    assert document("reap") == {"closed": []}
    assert document("report").keys() == {"page", "runs"}
    assert document("report", "--markdown")["page"].startswith("### train\n")
    assert document("show", "nothing", status=2) == {}


def test_a_run_that_differs_says_where_in_json(here: Workspace, document: Document) -> None:
    (here.path / "train.py").write_text(here.read("train.py").decode().replace("0)", "1)", 1))
    here.run("dvc", "repro", environment=RECORD_ONLY)
    found = document("compare", "HEAD:train", "records/train")
    own = {"verdict", "largest", "tolerance", "compared", "numbers", "not_compared", "differences"}
    assert found.keys() == own
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
