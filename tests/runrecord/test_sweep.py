"""`runrecord sweep`: on Ray, Optuna, DVC and MLflow as they are."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from helpers import (
    EXPERIMENT,
    IDENTICAL,
    IDENTITY,
    RECORD_ONLY,
    TOY,
    Workspace,
    new_project,
    read_until,
    runs,
    some_port,
    spool,
    wait_until,
    with_results,
)

from runrecord.errors import UserError
from runrecord.extras import require
from runrecord.project import Better
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import RecordRefused
from runrecord.record.view import view
from runrecord.sweep.ray_backend import task_of
from runrecord.sweep.space import Param, Value, as_there, parse, set_params, split
from runrecord.sweep.study import Definition, Searcher, Trial, best_first, grid_size, to_run
from runrecord.sweep.study_record import Study, find_study, recorded, study_record
from runrecord.sweep.trial_clone import environment_of
from runrecord.sweep.worker import experiment_ref, run_trial

needs_ray = pytest.mark.needs("sweep")

# A trial waits after its epoch while there is a file HOLD/LR-EPOCH, and fails where LR is 0.
HELD = TOY["train.py"].replace(
    '        print(f"epoch {epoch}/{epochs}", flush=True)\n',
    """        lr = run.params["train.lr"]
        print(f"epoch {epoch}/{epochs}", flush=True)
        if lr == 0:
            raise SystemExit("error: lr is 0")
        while os.path.exists(f"{os.environ.get('HOLD')}/{lr}-{epoch}"):
            time.sleep(0.05)
""",
)
PROJECT = {**TOY, "train.py": HELD.replace("import json, os, sys", "import json, os, sys, time")}
METRIC = ("--metric", "metrics.json:Length")
SWEEP = ("runrecord", "sweep")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The project, committed, before anything ran."""
    return new_project(tmp_path_factory.mktemp("bare") / EXPERIMENT, PROJECT)


@pytest.fixture(scope="module")
def begun(bare: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The project after `dvc repro`, committed."""
    return with_results(bare.copy(tmp_path_factory.mktemp("swept") / EXPERIMENT))


@pytest.fixture
def project(begun: Workspace, tmp_path: Path) -> Workspace:
    return begun.copy(tmp_path / EXPERIMENT)


def experiments(project: Workspace) -> dict[str, str]:
    """The commit of each experiment, by its name."""
    listed = project.run("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps/")
    lines = [line.split() for line in listed.splitlines() if "/exps/exec/" not in line]
    return {name.rpartition("/")[2]: commit for name, commit in lines}


def locked(project: Workspace, revision: str) -> dict[str, str]:
    """The MD5 of each out, less the records, in the dvc.lock of a revision."""
    import yaml

    lock = yaml.safe_load(project.run("git", "show", f"{revision}:dvc.lock"))
    return {
        out["path"]: out["md5"]
        for stage in lock["stages"].values()
        for out in stage["outs"]
        if not out["path"].startswith("records/")
    }


def by_hand(project: Workspace, folder: Path, values: Mapping[str, object]) -> tuple[str, float]:
    """What `dvc repro train` gives in a copy with those params: the model's MD5, the metric."""
    copy = project.copy(folder)
    copy.set_params(**{f"train__{name}": value for name, value in values.items()})
    copy.run("dvc", "repro", "train", environment=RECORD_ONLY)
    copy.run("git", "add", "dvc.lock")
    copy.run("git", "commit", "--quiet", "--message=by hand")
    value = json.loads(copy.read("metrics.json"))["Length"]
    model = locked(copy, "HEAD")["model.bin"]
    shutil.rmtree(folder)
    return model, value


def told(project: Workspace, name: str) -> tuple[object, ...]:
    """All of a study but its change: one that its trials tell of has the params of one of them."""
    study = find_study(project.path, name)
    assert study is not None
    return study.id, study.definition, study.commit, study.trials


def tried(output: str, name: str) -> list[str]:
    """The trials that were run, in the order in which they ended."""
    return re.findall(rf"^{name}-\d+", output, re.MULTILINE)


def trials(project: Workspace, name: str) -> dict[int, Trial]:
    study = find_study(project.path, name)
    assert study is not None
    return dict(study.trials)


# What can be written of a param, and what it means.
SPACES: dict[str, Param] = {
    "a=1,2": Param("a", (1, 2)),
    "a=1": Param("a", (1,)),
    "a=0.1,1e-3": Param("a", (0.1, 0.001)),
    "a.b=adam,rmsprop": Param("a.b", ("adam", "rmsprop")),
    "a=true,false": Param("a", (True, False)),
    "a=null,1": Param("a", (None, 1)),
    "a=1..9": Param("a", low=1, high=9),
    "a=-1..1": Param("a", low=-1, high=1),
    "a=1.0..9": Param("a", low=1.0, high=9),
    "a=0.0003..0.003:log": Param("a", low=0.0003, high=0.003, log=True),
    "a=1e-5..1e-2:log": Param("a", low=1e-5, high=1e-2, log=True),
    "a=1..100:log": Param("a", low=1, high=100, log=True),
    "a=0...5": Param("a", low=0, high=0.5),
    "a=x..y": Param("a", ("x..y",)),
    "a=../a,../b": Param("a", ("../a", "../b")),
    "a=../data": Param("a", ("../data",)),
    "a=1..2,3..4": Param("a", ("1..2", "3..4")),
    "sub/params.yaml:a=1,2": Param("sub/params.yaml:a", (1, 2)),
}
# What cannot be searched, and what is said.
NO_SPACES = {
    "a": "PARAM=VALUES",
    "=1,2": "PARAM=VALUES",
    "a..b=1": "PARAM=VALUES",
    "a=": "is no value",
    "a=1,,2": "is no value",
    "a=[1,2]": "is no value",
    "a={b: 1}": "is no value",
    "a=1...inf": "is of numbers",
    "a=.inf...inf": "is of numbers",
    "a=3..1": "begins below its end",
    "a=1..1": "begins below its end",
    "a=0..1:log": "above 0",
    "a=1,1": "names a value twice",
    "../params.yaml:a=1": "outside the repository",
    "/etc/params.yaml:a=1": "outside the repository",
}


@pytest.mark.parametrize("text", SPACES)
def test_what_is_searched(text: str) -> None:
    assert parse(split([text])) == [SPACES[text]]


@pytest.mark.parametrize("text", NO_SPACES)
def test_what_cannot_be_searched_is_said(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(NO_SPACES[text])):
        parse(split([text]))


def test_a_param_is_given_once() -> None:
    with pytest.raises(UserError, match="given twice"):
        split(["a=1", "a=2"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train.rl", "has no 'train.rl'; it has a.b, train.lr"),
        ("train", "'train' is a block; name one of lr in it"),
        ("other.yaml:x", "there is no such file"),
    ],
)
def test_a_param_that_is_not_there_is_said(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {lr: 1}\na: {b: 2}\n")
    with pytest.raises(UserError, match=re.escape(said)):
        as_there(tmp_path, {name: "1"})


def test_where_a_param_is_a_float_a_range_is_of_floats(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("dropout: 0.5\nlr: 1e-3\nlayers: 3\nunset: null\n")
    given = {"dropout": "0..1", "lr": "1..10:log", "layers": "1..9", "unset": "1..9"}
    assert as_there(tmp_path, given) == {**given, "dropout": "0.0..1.0", "lr": "1.0..10.0:log"}
    assert as_there(tmp_path, {"dropout": "0,1"}) == {"dropout": "0,1"}, "a list is as it is"


@needs_ray
def test_a_range_of_floats_is_searched_between_its_ends_too(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("dropout: 0.5\n")
    space = as_there(tmp_path, {"dropout": "0..1"})
    tried = [Searcher(definition("random", **space), []).ask(n).params for n in range(4)]
    assert all(0 < float(str(one["dropout"])) < 1 for one in tried)


def test_params_are_set_and_comments_stay(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("# first\na:\n  b: 1  # of b\n  c: x\n")
    (tmp_path / "other.json").write_text('{"d": 1, "e": 2}')
    set_params(tmp_path, {"a.b": 0.25, "a.c": None, "other.json:d": True})
    text = (tmp_path / "params.yaml").read_text()
    assert text == "# first\na:\n  b: 0.25 # of b\n  c:\n"
    assert json.loads((tmp_path / "other.json").read_text()) == {"d": True, "e": 2}


def definition(search: str, **space: str) -> Definition:
    return Definition(space, "metrics.json", "loss", "lower", search)  # type: ignore[arg-type]


def test_a_grid_has_all_combinations_and_runs_what_is_missing() -> None:
    grid = definition("grid", a="1,2", b="x,y,z")
    assert grid_size(grid) == 6
    wanted = dict(to_run(grid, {}, 6))
    assert [*wanted] == [0, 1, 2, 3, 4, 5]
    assert wanted[3] == {"a": 2, "b": "x"}
    known = {
        0: Trial(0, {"a": 1, "b": "x"}, "COMPLETE", 1.0),
        1: Trial(1, {"a": 1, "b": "y"}, "PRUNED"),
        2: Trial(2, {"a": 1, "b": "z"}, "FAIL"),
        4: Trial(4, {"a": 2, "b": "y"}),
    }
    assert [number for number, _ in to_run(grid, known, 6)] == [2, 3, 4, 5]
    assert [number for number, _ in to_run(grid, known, 4)] == [2, 3]
    with pytest.raises(UserError, match="a grid takes lists"):
        grid_size(definition("grid", a="1..3"))


def test_the_best_comes_first_and_what_has_no_value_last() -> None:
    some = [Trial(0, {}, "FAIL"), Trial(1, {}, "COMPLETE", 2.0), Trial(2, {}, "COMPLETE", 1.0)]
    assert [one.number for one in best_first(some, "lower")] == [2, 1, 0]
    assert [one.number for one in best_first(some, "higher")] == [1, 2, 0]


@needs_ray
@pytest.mark.parametrize("search", ["random", "tpe"])
def test_what_is_asked_depends_on_the_number_and_on_what_ended_alone(search: str) -> None:
    space = definition(search, a="0.1..10:log", b="1..9", c="x,y")
    done: list[Trial] = []
    whole = Searcher(space, [])
    for number in range(14):
        trial = whole.ask(number)
        again = Searcher(space, done).ask(number)
        assert again.params == trial.params, "a study that is begun again asks for the same"
        ended = Trial(number, trial.params, "COMPLETE", float(number % 5))
        whole.tell(ended)
        done.append(ended)
    assert len({json.dumps(one.params) for one in done}) == 14
    known: dict[str, Value] = {"a": 0.5, "b": 3, "c": "y"}
    assert Searcher(space, done).ask(14, known).params == known


@needs_ray
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_study_that_goes_on_gives_up_what_is_worse_than_its_earlier_trials(
    better: Better,
) -> None:
    pruned = replace(definition("random", a="0.1..10"), prune=True, better=better)
    curve = dict.fromkeys(range(1, 9), 1.0)
    done = [
        Trial(number, Searcher(pruned, []).ask(number).params, "COMPLETE", 1.0, curve)
        for number in range(4)
    ]
    searcher = Searcher(pruned, done)
    for number, value, given_up in ((4, 0.5, better == "higher"), (5, 2.0, better == "lower")):
        searcher.ask(number)
        seen = [searcher.is_hopeless(number, epoch, value) for epoch in range(1, 9)]
        assert any(seen) == given_up


@needs_ray
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_search_goes_where_the_metric_is_better(better: Better) -> None:
    space = replace(definition("tpe", a="0.0..1.0"), better=better)
    searcher = Searcher(space, [])
    tried = []
    for number in range(40):
        trial = searcher.ask(number)
        tried.append(float(str(trial.params["a"])))
        searcher.tell(replace(trial, state="COMPLETE", value=tried[-1]))
    last = sum(tried[-10:]) / 10
    assert last > 0.8 if better == "higher" else last < 0.2


@needs_ray
def test_who_comes_second_to_a_new_study_is_told(bare: Workspace) -> None:
    """Both have looked for it and found none; then one has worked on it, from start to end."""
    commit = bare.run("git", "rev-parse", "HEAD").strip()
    study = Study("race", "", definition("grid", a="1,2"), commit, b"", {})
    with recorded(bare.path, study, {}) as (run, found):
        assert found.id == run.id
        with pytest.raises(UserError, match="another process works on this study"):
            recorded(bare.path, study, {}).__enter__()
    with pytest.raises(UserError, match="another process worked on it just now"):
        recorded(bare.path, study, {}).__enter__()
    kept = find_study(bare.path, "race")
    assert kept is not None
    with recorded(bare.path, kept, {}) as (run, _):
        assert run.id == kept.id, "it is the same run that goes on"


def test_a_table_shows_what_is_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    """They mean colours to the library that draws it."""
    from runrecord.cli.sweep import _conclude

    trials = {
        0: Trial(0, {"a": "[x]"}, "COMPLETE", 1.0),
        1: Trial(1, {"a": "[/]"}, "FAIL", error="IndexError: [red]gone[/red]"),
    }
    _conclude(Study("shown", "", definition("grid", a="[x],[/]"), "", b"", trials))
    printed = capsys.readouterr().out
    for text in ("[x]", "[/]", "[red]gone[/red]"):
        assert text in printed


def test_without_the_extra_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"pip install 'runrecord\[sweep\]'"):
        require("no_such_package", "Ray", "sweep")
    (tmp_path / "requirements-sweep.lock").touch()
    with pytest.raises(UserError, match="make setup EXTRAS=sweep"):
        require("no_such_package", "Ray", "sweep")


# What is given, and what is said.
REFUSED = {
    ("train.lr=1,2",): "FILE:NAME",
    ("train.lr=1,2", "--metric", "metrics.json"): "FILE:NAME",
    ("train.lr=1,2", "--metric", "other.json:x"): "no stage of dvc.yaml writes it",
    ("train.rl=1,2", *METRIC): "has no 'train.rl'",
    ("train.lr=1..2", *METRIC, "--search", "grid"): "a grid takes lists",
    ("train.lr=1,2", *METRIC, "--name", "a b"): "letters, digits",
    (): "say what to search",
    ("--name", "unknown"): "no record tells of such a study",
}


@needs_ray
@pytest.mark.parametrize("given", REFUSED)
def test_what_is_refused_is_one_sentence(
    given: tuple[str, ...], bare: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runrecord.cli import _parser
    from runrecord.cli.sweep import sweep

    monkeypatch.chdir(bare.path)
    with pytest.raises(UserError, match=re.escape(REFUSED[given])):
        sweep(_parser().parse_args(["sweep", *given]))


@needs_ray
def test_a_study_with_a_change_that_was_made_elsewhere_runs_nothing(
    bare: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runrecord.cli import _parser
    from runrecord.cli.sweep import sweep

    project, given = bare.copy(tmp_path / EXPERIMENT), ("train.lr=1,2", *METRIC)
    commit = project.run("git", "rev-parse", "HEAD").strip()
    (project.path / "train.py").write_text("raise SystemExit('theirs')\n")
    patch = project.run("git", "diff").encode()
    definition = Definition({"train.lr": "1,2"}, "metrics.json", "Length", "lower", "grid")
    with recorded(project.path, Study("theirs", "", definition, commit, patch, {}), {}):
        pass
    shutil.rmtree(project.path / ".runrecord" / "patches")  # as if its record had come from a clone
    monkeypatch.chdir(project.path)
    for more in ((), given):
        with pytest.raises(UserError, match="theirs: its uncommitted change was made elsewhere"):
            sweep(_parser().parse_args(["sweep", *more, "--name", "theirs"]))
    assert not experiments(project)


def test_a_trial_has_the_variables_that_change_numbers_from_its_driver_alone(
    bare: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {**IDENTITY, "OMP_NUM_THREADS": "2", "MLFLOW_TRACKING_URI": "here"}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    commit = bare.run("git", "rev-parse", "HEAD").strip()
    study = Study("plain", "", definition("grid", a="1"), commit, b"", {})
    task = task_of(bare.path, study, ("train",), tmp_path, "proof")
    # On the worker, Ray has set others.
    ours = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "there"}
    for name, text in {**ours, "EDITOR": "vi"}.items():
        monkeypatch.setenv(name, text)
    found = environment_of(task)
    assert found["OMP_NUM_THREADS"] == "2"
    assert "MKL_NUM_THREADS" not in found
    assert (found["MLFLOW_TRACKING_URI"], found["EDITOR"]) == ("here", "vi")


@needs_ray
def test_an_experiment_of_that_name_is_not_written_over(
    bare: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runrecord.cli import _parser
    from runrecord.cli.sweep import sweep

    project = bare.copy(tmp_path / EXPERIMENT)
    commit = project.run("git", "rev-parse", "HEAD").strip()
    project.run("git", "update-ref", experiment_ref(commit, "mine-001"), commit)
    monkeypatch.chdir(project.path)
    given = ["sweep", "train.lr=1,2", *METRIC, "--name", "mine"]
    with pytest.raises(UserError, match="mine-001 is an experiment already"):
        sweep(_parser().parse_args(given))
    assert not spool(project)


@needs_ray
def test_a_worker_on_a_project_that_logs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its value is read; what one trial leaves is none of the next one's; none is infinite.

    Nothing is fetched again, where only an uncommitted dvc.lock knows of it and DVC has no copy of
    such a stage's run.
    """
    for name, text in IDENTITY.items():
        monkeypatch.setenv(name, text)
    project = new_project(
        tmp_path / "project",
        {
            ".gitignore": "/left\n/data.txt\n",
            "params.yaml": "value: 1\n",
            "dvc.yaml": "stages: {fetch: {cmd: cp ../source data.txt, outs: [data.txt: {persist:"
            " true}]}, make: {params: [value], deps: [data.txt], metrics: [metrics.yaml: {cache:"
            " false}], cmd: 'test ! -e left && touch left && sed s/value/loss/ params.yaml"
            " >metrics.yaml'}}",
        },
    )
    (tmp_path / "source").touch()
    project.run("dvc", "repro", "--quiet", "fetch")
    study = Study(
        "plain",
        "",
        Definition({"value": "2,3,.inf"}, "metrics.yaml", "loss", "lower", "grid"),
        project.run("git", "rev-parse", "HEAD").strip(),
        b"",
        {},
    )
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "proof").write_text("proof")
    base = task_of(project.path, study, ("make",), folder, "proof")
    found = []
    for number, value in enumerate((2.0, 3.0, math.inf)):
        trial = Trial(number, {"value": value})
        task = replace(base, trial=trial, experiment=f"plain-{number:03}")
        found.append(run_trial(task, b"", None).trial)
    assert [(one.state, one.value) for one in found[:2]] == [("COMPLETE", 2.0), ("COMPLETE", 3.0)]
    assert (found[2].state, found[2].error) == ("FAIL", "metrics.yaml: loss is inf")
    assert {*experiments(project)} == {"plain-000", "plain-001"}
    assert project.run("git", "show", f"{experiments(project)['plain-001']}:params.yaml") == (
        "value: 3.0\n"
    )


@needs_ray
@pytest.mark.parametrize("where", ["the cache", pytest.param("the remote", marks=pytest.mark.slow)])
def test_a_trial_has_the_data_that_dvc_tracks(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file, a folder, a part of one, and an import; committed or not."""
    for name, text in IDENTITY.items():
        monkeypatch.setenv(name, text)
    (tmp_path / "url.csv").write_text("4\n")
    stage = {
        "cmd": "cat data.csv raw/x.csv raw/sub/y.csv url.csv && cp params.yaml metrics.yaml",
        "params": ["loss"],
        "deps": ["data.csv", "raw", "raw/sub/y.csv", "url.csv"],
        "metrics": [{"metrics.yaml": {"cache": False}}],
    }
    files = {"params.yaml": "loss: 1\n", "dvc.yaml": json.dumps({"stages": {"make": stage}})}
    project = new_project(tmp_path / "project", files)
    for name in ("data.csv", "raw/x.csv", "raw/sub/y.csv", "more/unused.csv"):
        (project.path / name).parent.mkdir(parents=True, exist_ok=True)
        (project.path / name).write_text(f"{name}\n")
    project.run("dvc", "add", "--quiet", "data.csv", "raw", "more")
    project.run("dvc", "import-url", "--quiet", str(tmp_path / "url.csv"))
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message=data")
    if where == "the remote":
        project.run("dvc", "remote", "add", "--quiet", "--default", "far", str(tmp_path / "far"))
        project.run("git", "commit", "--quiet", "--all", "--message=remote")
        project.run("dvc", "push", "--quiet")
        shutil.rmtree(project.path / ".dvc/cache")
    commit = project.run("git", "rev-parse", "HEAD").strip()
    definition = Definition({"loss": "2,3"}, "metrics.yaml", "loss", "lower", "grid")
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "proof").write_text("proof")
    study = Study("plain", "", definition, commit, b"", {})
    base = task_of(project.path, study, ("make",), folder, "proof")
    for number in (0, 1):
        trial = Trial(number, {"loss": number + 2.0})
        task = replace(base, trial=trial, experiment=f"plain-{number:03}")
        done = run_trial(task, b"", None).trial
        assert (done.state, done.value, done.error) == ("COMPLETE", number + 2.0, "")
    assert not [*folder.glob("workers/*/repository/more")], "what is not read is not brought"


@needs_ray
def test_a_trial_is_given_up_where_nothing_tells_what_it_had_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray begins it again on a machine that has no record of its first worker's."""
    for name, text in IDENTITY.items():
        monkeypatch.setenv(name, text)
    files = {
        "params.yaml": "value: 1\n",
        "dvc.yaml": "stages: {make: {params: [value], metrics: [metrics.yaml], cmd: sleep 300}}\n",
    }
    project = new_project(tmp_path / "project", files)
    commit = project.run("git", "rev-parse", "HEAD").strip()
    definition = Definition({"value": "1,2"}, "metrics.yaml", "loss", "lower", "grid", prune=True)
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "proof").write_text("proof")
    study = Study("plain", "", definition, commit, b"", {})
    base = task_of(project.path, study, ("make",), folder, "proof")
    task = replace(base, trial=Trial(0, {"value": 1}), experiment="plain-000")
    trial = run_trial(task, b"", lambda _number, _curve: True).trial
    assert (trial.state, trial.curve) == ("PRUNED", {})


@needs_ray
@pytest.mark.slow
def test_a_trial_larger_than_any_machine_is_refused(bare: Workspace, tmp_path: Path) -> None:
    project = bare.copy(tmp_path / EXPERIMENT)
    given = (*SWEEP, "train.lr=1,2", *METRIC, "--name", "large")
    said = project.run(*given, "--gpus", "64", status=2, environment=RECORD_ONLY)
    assert "no machine of Ray's has 1 CPUs and 64 GPUs for a trial; ask for less" in said
    assert "Traceback" not in said


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(("own", "retries"), [({}, 3), ({"RAY_task_oom_retries": "1"}, 1)])
def test_a_trial_that_is_killed_for_memory_is_tried_a_few_times_and_the_table_says_so(
    own: dict[str, str], retries: int, bare: Workspace, tmp_path: Path
) -> None:
    project = bare.copy(tmp_path / EXPERIMENT)
    environment = {**RECORD_ONLY, **own, "RAY_memory_usage_threshold": "0.001"}
    said = project.run(*SWEEP, "train.lr=1", *METRIC, status=1, environment=environment)
    left = re.findall(r"There are (\w+) oom retries remaining", said)
    assert max(left) == str(retries), "Ray itself says how often it will try again"
    assert "failed: Ray killed it each time, as its machine ran out of memory; run fewer" in said
    (study,) = spool(project)
    assert "ran out of memory" in project.run("runrecord", "show", study.name)


@needs_ray
@pytest.mark.slow
def test_a_study_from_its_start_to_its_end(project: Workspace, tmp_path: Path) -> None:
    """Experiments, records, MLflow, the table, the report; frozen code; nothing twice."""
    (project.path / "new.py").write_text("# a new file of the change\n")
    project.set_params(train__epochs=3)
    before = project.run("git", "status", "--porcelain")
    output = project.run(*SWEEP, "train.lr=0.5,0,2.5", *METRIC, "--name", "walk", status=1)
    assert project.run("git", "status", "--porcelain") == before
    assert "failed: " in output
    assert "lr is 0" in output
    found = trials(project, "walk")
    assert [found[n].state for n in range(3)] == ["COMPLETE", "FAIL", "COMPLETE"]
    best = min((found[0], found[2]), key=lambda trial: trial.value or 0)
    assert f"dvc exp apply walk-{best.number:03}" in output
    # Each finished one is an experiment of HEAD that names what ran, and nothing else.
    kept = experiments(project)
    assert {*kept} == {"walk-000", "walk-002"}
    head = project.run("git", "rev-parse", "HEAD").strip()
    for name, number in (("walk-000", 0), ("walk-002", 2)):
        assert project.run("git", "rev-parse", f"{kept[name]}^").strip() == head
        assert "# a new file" in project.run("git", "show", f"{kept[name]}:new.py")
        values = {"lr": found[number].params["train.lr"]}
        model, value = by_hand(project, tmp_path / "by hand" / EXPERIMENT, values)
        assert locked(project, kept[name])["model.bin"] == model
        assert found[number].value == value
        evaluation = project.run("git", "show", f"{kept[name]}:dvc.lock").partition("evaluate")[2]
        assert (
            evaluation.partition("numbers:")[0]
            == (project.run("git", "show", "HEAD:dvc.lock").partition("evaluate")[2]).partition(
                "numbers:"
            )[0]
        ), "evaluate did not run"
    # MLflow has them beneath the study's run, with the plots.
    shown = {run.info.run_name: run for run in runs(project)}
    record = study_record(project.path, "walk")
    assert record is not None
    parent = shown[record.start.id]
    assert parent.data.metrics["Length"] == best.value
    assert parent.data.params["space.train.lr"] == "0.5,0,2.5"
    children = {
        name: run
        for name, run in shown.items()
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert {run.data.tags["dvc.experiment"] for run in children.values()} == {
        "walk-000",
        "walk-001",
        "walk-002",
    }
    statuses = sorted(run.info.status for run in children.values())
    assert statuses == ["FAILED", "FINISHED", "FINISHED"]
    pictures = view(record).images
    assert {title for title, _ in pictures} >= {"History", "Length against train.lr"}
    # The report has all of it.
    project.run("runrecord", "report", "walk")
    page = (project.path / "report.html").read_text()
    assert f"<h1>{record.start.id}</h1>" in page
    assert "walk-002" in page
    assert "History" in page
    # Again: only what failed is tried, with the code of then.
    (project.path / "train.py").write_text("raise SystemExit('error: edited since')\n")
    output = project.run(*SWEEP, "train.lr=0.5,0,2.5", *METRIC, "--name", "walk", status=1)
    assert "goes on with the code that it began with" in output
    assert "edited since" not in output
    assert tried(output, "walk") == ["walk-001"]
    other = project.run(*SWEEP, "train.lr=1,2", *METRIC, "--name", "walk", status=2)
    assert "that study is another: space.train.lr is 0.5,0,2.5 there, and " in other
    # What it has is taken and proved.
    project.run("git", "checkout", "--quiet", ".")
    (project.path / "new.py").unlink()
    project.run("dvc", "exp", "apply", "walk-002")
    assert json.loads(project.read("metrics.json"))["Length"] == found[2].value
    assert "train.py" not in project.run("dvc", "status", "train")
    assert IDENTICAL in project.run("runrecord", "verify", "walk-002:train")
    assert not (project.path / ".runrecord" / "studies").exists() or not [
        *(project.path / ".runrecord" / "studies").iterdir()
    ]


@needs_ray
def test_whose_experiments_they_are_is_found_or_asked_for(
    bare: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the repository's own settings too; clones have none of these."""
    from runrecord.sweep.ray_backend import _person

    for name in (*IDENTITY, "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    project = bare.copy(tmp_path / "project")
    project.run("git", "config", "user.useConfigOnly", "true")
    with pytest.raises(UserError, match="Git does not know who you are"):
        _person(project.path)
    project.run("git", "config", "user.name", "Ada Lovelace")
    project.run("git", "config", "user.email", "ada@example.org")
    assert _person(project.path) == ("Ada Lovelace", "ada@example.org")


@needs_ray
@pytest.mark.slow
def test_a_study_that_is_deleted_is_made_again_from_its_trials(project: Workspace) -> None:
    """It is begun while MLflow cannot be reached, which costs no trial."""
    given = ("train.lr=0.5,1.5", "train.epochs=2", *METRIC, "--name", "lost")
    output = project.run(*SWEEP, *given, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert tried(output, "lost") == ["lost-000", "lost-001"]
    before = told(project, "lost")
    record = study_record(project.path, "lost")
    assert record is not None
    (folder,) = [path for path in spool(project) if path.name == record.start.id]
    shutil.rmtree(folder)
    assert study_record(project.path, "lost") is None
    assert told(project, "lost") == before
    output = project.run(*SWEEP, "--name", "lost")
    assert tried(output, "lost") == []
    assert told(project, "lost") == before
    # From the experiments alone, as another clone has them.
    for path in spool(project):
        shutil.rmtree(path)
    assert told(project, "lost") == before
    # MLflow is made again, each trial beneath its study.
    project.run(*SWEEP, "--name", "lost")
    project.run("runrecord", "sync", "--all")
    shown = [*runs(project)]
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs(project, "train")}
    (study,) = [run.info.run_id for run in shown if run.data.tags["mlflow.source.name"] == "sweep"]
    assert study in parents


@contextmanager
def started(project: Workspace, *command: str, **more: str) -> "Iterator[subprocess.Popen[str]]":
    """A command that ends with the test, whatever that comes to."""
    with project.start(*command, **more) as process:
        try:
            yield process
        finally:
            process.kill()


def held_trial(project: Workspace, name: str, epoch: int) -> int:
    """Wait until a trial holds after an epoch; the process of its stage."""

    def holds() -> bool:
        for folder in spool(project):
            if folder.name.startswith(name):
                with suppress(RecordRefused):  # it is being written
                    return epoch in view(Record(files_in(folder))).series.get("Length", {})
        return False

    wait_until(holds)
    (folder,) = [path for path in spool(project) if path.name.startswith(name)]
    return int(json.loads((folder / ".place").read_text())["process"])


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_it_goes_on_where_it_was(
    signum: signal.Signals, project: Workspace, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hold.mkdir()
    (hold / "1.5-3").touch()
    given = (*SWEEP, "train.lr=0.5,1.5", "train.epochs=5", *METRIC, "--name", "stopped")
    with started(project, *given, HOLD=str(hold), **RECORD_ONLY) as process:
        assert process.stdout is not None
        read_until(process.stdout, "stopped-000")
        stage = held_trial(project, "stopped-001", 3)
        process.send_signal(signum)
        output = process.stdout.read()
    if signum != signal.SIGKILL:
        assert "the same command goes on with it" in output
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[signum]
    wait_until(lambda: not psutil.pid_exists(stage))
    (hold / "1.5-3").unlink()
    output = project.run(*given, environment=RECORD_ONLY)
    assert tried(output, "stopped") == ["stopped-001"]
    (folder,) = [path for path in spool(project) if path.name.startswith("stopped-001")]
    seen = view(Record(files_in(folder)))
    assert seen.status == "FINISHED"
    assert "resumed" in (folder / "events.jsonl").read_text()
    values = {"lr": 1.5, "epochs": 5}
    model, value = by_hand(project, tmp_path / "by hand" / EXPERIMENT, values)
    found = trials(project, "stopped")[1]
    assert (locked(project, experiments(project)["stopped-001"])["model.bin"], found.value) == (
        model,
        value,
    )


@needs_ray
@pytest.mark.slow
def test_a_trial_that_is_worse_is_given_up_and_tagged(project: Workspace, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.mkdir()
    (hold / "4000.0-4").touch()  # it would last for ever
    given = ("train.lr=0.5,0.6,0.7,0.8,4000.0", "train.epochs=8", *METRIC, "--prune")
    output = project.run(*SWEEP, *given, "--name", "pruned", HOLD=str(hold))
    found = trials(project, "pruned")
    assert found[4].state == "PRUNED"
    assert "given up at epoch" in output
    assert "pruned-004" not in experiments(project)
    (run,) = [one for one in runs(project) if one.data.tags.get("study.pruned")]
    assert run.info.status == "KILLED"
    assert "worse than what most trials" in run.data.tags["study.pruned"]
    assert run.data.tags["mlflow.parentRunId"]


@needs_ray
@pytest.mark.slow
def test_two_studies_at_once_and_the_same_one_twice(project: Workspace, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.mkdir()
    (hold / "0.5-2").touch()
    space = ("train.lr=0.5,1.5", "train.epochs=3", *METRIC)
    first = (*SWEEP, *space, "--name", "first")
    with started(project, *first, HOLD=str(hold), **RECORD_ONLY) as process:
        held_trial(project, "first-000", 2)
        said = project.run(*first, status=2, environment=RECORD_ONLY)
        assert "another process works on this study" in said
        project.run(*SWEEP, *space, "--name", "second", environment=RECORD_ONLY)
        (hold / "0.5-2").unlink()
        assert process.wait(timeout=120) == 0
    kept = experiments(project)
    assert {*kept} == {"first-000", "first-001", "second-000", "second-001"}
    for number in ("000", "001"):
        assert locked(project, kept[f"first-{number}"]) == locked(project, kept[f"second-{number}"])


@contextmanager
def cluster(
    folder: Path, nodes: int, hidden: Path | None = None, **more: str
) -> Iterator[tuple[dict[str, str], list["subprocess.Popen[bytes]"]]]:
    """A Ray cluster of a head, which runs no trial, and nodes, each in a folder of its own.

    Args:
        folder: for them.
        nodes: how many.
        hidden: a folder that the nodes do not see, as other machines would not.
        more: variables of theirs.
    """
    port = some_port()
    address = f"127.0.0.1:{port}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    environment = kept | IDENTITY | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0", **token, **more}
    common = ("--block", "--object-store-memory=80000000", "--disable-usage-stats")
    head = ("ray", "start", "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
    node: tuple[str, ...] = ("ray", "start", f"--address={address}", "--num-cpus=1")
    if hidden:
        hide = f'mount -t tmpfs none "{hidden}" && exec "$@"'
        node = ("unshare", "--mount", "sh", "-c", hide, "sh", *node)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate([head] + [node] * nodes):
            own = folder / ("head" if number == 0 else f"node-{number}")
            own.mkdir(parents=True)
            with (own / "log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        [*command, *common],
                        cwd=own,
                        env={**environment, "RUNRECORD_SWEEP_DIR": str(own)},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )
            wait_until(lambda own=own: b"--block" in (own / "log").read_bytes())  # type: ignore[misc]
        yield {"RAY_ADDRESS": address, **token}, started[1:]
    finally:
        for process in reversed(started):
            for child in [*psutil.Process(process.pid).children(recursive=True)]:
                with suppress(psutil.Error):
                    child.kill()
            process.kill()
            process.wait()


@needs_ray
@pytest.mark.slow
def test_a_cluster_one_of_whose_nodes_dies_gives_what_is_got_by_hand(
    project: Workspace, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hold.mkdir()
    (hold / "0.75-3").touch()
    rates = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    given = (
        *(*SWEEP, f"train.lr={','.join(map(str, rates))}", "train.epochs=4,5", *METRIC),
        *("--name", "many"),
    )
    with (
        cluster(tmp_path / "ray", 2, HOLD=str(hold)) as (there, _),
        started(project, *given, **there) as process,
    ):
        stage = held_trial(project, "many-004", 3)
        (raylet,) = [one for one in psutil.Process(stage).parents() if one.name() == "raylet"]
        raylet.kill()
        wait_until(lambda: not psutil.pid_exists(stage))
        (hold / "0.75-3").unlink()
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait() == 0, output
    found = trials(project, "many")
    assert len(found) == 12
    assert {trial.state for trial in found.values()} == {"COMPLETE"}
    kept = experiments(project)
    for number, trial in found.items():
        values = {name.removeprefix("train."): value for name, value in trial.params.items()}
        model, value = by_hand(project, tmp_path / "by hand" / EXPERIMENT, values)
        assert (locked(project, kept[f"many-{number:03}"])["model.bin"], trial.value) == (
            model,
            value,
        )
    # What was killed went on from its checkpoint, in the same run.
    (folder,) = [path for path in spool(project) if path.name.startswith("many-004")]
    assert "resumed" in (folder / "events.jsonl").read_text()
    study = study_record(project.path, "many")
    assert study is not None
    (parent,) = runs(project, "sweep")
    swept = [
        one
        for one in runs(project, "train")
        if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert len(swept) == 12
    for name in ("many-004", "many-011"):
        assert IDENTICAL in project.run("runrecord", "verify", f"{name}:train")
    project.run("dvc", "exp", "apply", "many-007")
    project.run("dvc", "checkout")
    assert json.loads(project.read("metrics.json"))["Length"] == found[7].value


@needs_ray
@pytest.mark.slow
@pytest.mark.needs("root-mounts")
def test_a_machine_that_does_not_see_the_repository_sends_all_home(
    project: Workspace, tmp_path: Path
) -> None:
    project.run("dvc", "remote", "add", "--quiet", "--default", "storage", "../remote")
    project.run("git", "commit", "--quiet", "--all", "--message=a remote")
    project.run("dvc", "push", "--quiet")
    given = (*SWEEP, "train.lr=0.5,0,1.5", "train.epochs=3", *METRIC, "--name", "far")
    with cluster(tmp_path / "ray", 1, hidden=project.path) as (there, _):
        output = project.run(*given, environment=there, status=1)
    found = trials(project, "far")
    assert [found[n].state for n in range(3)] == ["COMPLETE", "FAIL", "COMPLETE"], output
    shown = {run.data.tags.get("dvc.experiment"): run for run in runs(project, "train")}
    assert {"far-000", "far-001", "far-002"} <= {*shown}
    assert shown["far-001"].info.status == "FAILED"
    assert all(one.data.tags.get("mlflow.parentRunId") for one in shown.values() if one)
    values = {"lr": 1.5, "epochs": 3}
    model, value = by_hand(project, tmp_path / "by hand" / EXPERIMENT, values)
    assert (locked(project, experiments(project)["far-002"])["model.bin"], found[2].value) == (
        model,
        value,
    )
    project.run("dvc", "exp", "apply", "far-002")
    project.run("dvc", "pull")
    assert IDENTICAL in project.run("runrecord", "verify", "far-002:train", "--yes")
    # Pushed as any other experiment, and had by another clone.
    origin = str(tmp_path / "origin.git")
    project.run("git", "init", "--quiet", "--bare", "--initial-branch=main", origin)
    project.run("git", "remote", "add", "origin", origin)
    project.run("git", "push", "--quiet", "origin", "main")
    project.run("dvc", "exp", "push", "origin", "far-002")
    theirs = Workspace(tmp_path / "theirs")
    project.run("git", "clone", "--quiet", origin, str(theirs.path))
    theirs.run("dvc", "exp", "pull", "origin", "far-002")
    assert IDENTICAL in theirs.run("runrecord", "verify", "far-002:train", "--yes")
    assert "far-002" in theirs.run("dvc", "exp", "list", "--all-commits")
