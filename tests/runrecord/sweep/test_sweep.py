"""`runrecord sweep`: spaces, studies in Optuna's storage, and single trials on DVC."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from workspaces import EXPERIMENT, IDENTITY, TOY, Workspace, new_project, spool

from runrecord.cli import parser
from runrecord.cli.sweep import _check_names_free, _code, sweep
from runrecord.errors import UserError, require
from runrecord.project import Better, Project
from runrecord.sweep.study import (
    Definition,
    Outcome,
    Study,
    best_first,
    distribution_of,
    grid_of,
    open_study,
    read_space,
    set_params,
)
from runrecord.sweep.trials import Task, environment_of, experiment_ref, run_trial, task_of

pytestmark = pytest.mark.needs("sweep")
METRIC = ("--metric", "metrics.json:Length")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The project, committed, before anything ran."""
    return new_project(tmp_path_factory.mktemp("bare") / EXPERIMENT, TOY)


@pytest.fixture
def project(bare: Workspace, tmp_path: Path) -> Workspace:
    return bare.copy(tmp_path / EXPERIMENT)


@pytest.fixture(autouse=True)
def _with_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in IDENTITY.items():
        monkeypatch.setenv(name, text)


# What can be written of a param, and what it means; what cannot, and what is said.
THERE = "{a: 1, b: {c: 2}, d: 0.5, e: 1e-3}"
SPACES: dict[str, tuple[str, str]] = {
    "a=1,2": ("a", "CategoricalDistribution(choices=(1, 2))"),
    "b.c=adam,rmsprop": ("b.c", "CategoricalDistribution(choices=('adam', 'rmsprop'))"),
    "a=1..9": ("a", "IntDistribution(high=9, log=False, low=1, step=1)"),
    "a=1.0..9": ("a", "FloatDistribution(high=9.0, log=False, low=1.0, step=None)"),
    "a=0.0003..0.003:log": ("a", "FloatDistribution(high=0.003, log=True, low=0.0003, step=None)"),
    "a=0...5": ("a", "FloatDistribution(high=0.5, log=False, low=0.0, step=None)"),
    "d=0..1": ("d", "FloatDistribution(high=1.0, log=False, low=0.0, step=None)"),
    "e=1..10:log": ("e", "FloatDistribution(high=10.0, log=True, low=1.0, step=None)"),
    "a=../a,../b": ("a", "CategoricalDistribution(choices=('../a', '../b'))"),
    "a='../a',\"1..9\"": ("a", "CategoricalDistribution(choices=('../a', '1..9'))"),
    "sub/params.yaml:a=1": ("sub/params.yaml:a", "CategoricalDistribution(choices=(1,))"),
}
NO_SPACES = {
    "a": "PARAM=VALUES",
    "a..b=1": "PARAM=VALUES",
    "a=": "should be a list",
    "a=[1,2]": "should be a list",
    "a=nan..2": "should be a list",
    "a=1..9:lin": "should be a list",
    "a=.inf...inf": "is of finite numbers",
    "a=3..1": "`low <= high` must hold",
    "a=1,1": "names a value twice",
    "../params.yaml:a=1": "outside the repository",
    "b.d=1": "has no 'b.d'",
    "a.c=1": "has no 'a.c'",
    "b=1": "'b' is a block; name one of c in it",
    "other.yaml:x=1": "there is no such file",
}


def test_what_is_searched(tmp_path: Path) -> None:
    """A range is of floats where the project has a float."""
    (tmp_path / "sub").mkdir()
    for name in ("params.yaml", "sub/params.yaml"):
        (tmp_path / name).write_text(THERE)
    for text, (name, meaning) in SPACES.items():
        ((found, tried),) = read_space(tmp_path, [text]).items()
        assert (found, str(distribution_of(found, tried))) == (name, meaning)
    for text, said in NO_SPACES.items():
        with pytest.raises(UserError, match=re.escape(said)):
            read_space(tmp_path, [text])
    with pytest.raises(UserError, match="given twice"):
        read_space(tmp_path, ["a=1", "a=2"])


def test_params_are_set_and_comments_stay(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("# first\na:\n  b: 1  # of b\n  c: x\n")
    (tmp_path / "other.json").write_text('{"d": 1, "e": 2}')
    set_params(tmp_path, {"a.b": 0.25, "a.c": None, "other.json:d": True})
    text = (tmp_path / "params.yaml").read_text()
    assert text == "# first\na:\n  b: 0.25 # of b\n  c:\n"
    assert json.loads((tmp_path / "other.json").read_text()) == {"d": True, "e": 2}


def definition(
    search: str, better: Better = "lower", prune: bool = False, **space: str
) -> Definition:
    return Definition(space, "metrics.json", "loss", better, search, prune)


def complete(study: Study, number: int, value: float) -> None:
    study.tell(number, Outcome("COMPLETE", value))


def test_a_grid_runs_what_is_missing_and_the_best_comes_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a grid takes lists"):
        grid_of(definition("grid", a="1..3"))
    grid = definition("grid", a="1,2", b="x,y,z")
    with open_study(tmp_path, "grid", grid, "code") as study:
        wanted = dict(study.missing(9))
        assert [*wanted] == [0, 1, 2, 3, 4, 5]
        assert wanted[3] == {"a": 2, "b": "x"}
        for number in (0, 1, 2, 4, 5):
            study.ask(number, wanted[number])
        complete(study, 0, 1.0)
        complete(study, 5, 0.5)
        study.tell(1, Outcome("PRUNED"))
        study.tell(2, Outcome("FAIL", error="no"))
    with open_study(tmp_path, "grid", grid, "code") as study:  # 4 was stopped
        assert [number for number, _ in study.missing(6)] == [2, 3, 4]
        assert [number for number, _ in study.missing(4)] == [2, 3]
        assert [number for number, _ in best_first(study.trials, "lower")] == [5, 0, 1, 2, 4]
        assert [number for number, _ in best_first(study.trials, "higher")] == [0, 5, 1, 2, 4]
        for number, params in study.missing(6):
            assert study.ask(number, params) == wanted[number]
            complete(study, number, 2.0)
        assert not [*study.missing(6)]
        states = [(one.state.name, one.user_attrs["error"]) for one in study.optuna.trials]
        assert ("FAIL", "no") in states, "Optuna has each attempt"


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_what_is_asked_depends_on_the_number_and_on_what_ended_alone(
    search: str, tmp_path: Path
) -> None:
    space = definition(search, a="0.1..10:log", b="1..9", c="x,y")
    whole = []
    with open_study(tmp_path, "whole", space, "code") as study:
        for number in range(14):
            whole.append(study.ask(number))
            complete(study, number, float(number % 5))
    for number, params in enumerate(whole):
        with open_study(tmp_path, "again", space, "code") as study:
            assert study.ask(number) == params, "a study that is resumed asks for the same"
            complete(study, number, float(number % 5))
    assert len({json.dumps(params) for params in whole}) == 14


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_resumed_study_gives_up_what_is_worse_than_its_earlier_trials(
    better: Better, tmp_path: Path
) -> None:
    pruned = definition("random", better, prune=True, a="0.1..10")

    def given_up(number: int, value: float) -> bool:
        with open_study(tmp_path, "pruned", pruned, "code") as study:
            study.ask(number)
            seen = [study.is_hopeless(number, epoch, value) for epoch in range(1, 9)]
            complete(study, number, value)
        return any(seen)

    for number in range(4):
        given_up(number, 1.0)
    assert [given_up(4, 0.5), given_up(5, 2.0)] == [better == "higher", better == "lower"]


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_search_goes_where_the_metric_is_better(better: Better, tmp_path: Path) -> None:
    """A range of whole numbers is searched between them, too, where the project has a float."""
    (tmp_path / "params.yaml").write_text("a: 0.5\n")
    tried = []
    space = read_space(tmp_path, ["a=0..1"])["a"]
    with open_study(tmp_path, "far", definition("tpe", better, a=space), "code") as study:
        for number in range(40):
            tried.append(float(str(study.ask(number)["a"])))
            complete(study, number, tried[-1])
    last = sum(tried[-10:]) / 10
    assert last > 0.8 if better == "higher" else last < 0.2


def test_another_study_of_that_name_is_refused_and_a_torn_journal_is_not(tmp_path: Path) -> None:
    grid = definition("grid", a="1,2")
    with open_study(tmp_path, "one", grid, "code") as study:
        study.ask(0, {"a": 1})
        with pytest.raises(UserError, match="another process works on this study"):
            open_study(tmp_path, "one", grid, "code").__enter__()
    journal = tmp_path / ".runrecord" / "studies" / "one" / "journal.jsonl"
    Path(f"{journal}.lock").touch()  # Optuna's, of a process that was killed
    with journal.open("a") as file:
        file.write('{"op_code": 5, "tri')
    with open_study(tmp_path, "one", grid, "code") as study:
        assert study.ask(*next(study.missing(1))) == {"a": 1}
        assert len(study.optuna.trials) == 1, "what was stopped is resumed"
        complete(study, 0, 1.0)
    for other, code, said in (
        (definition("grid", a="1,3"), "code", "space.a was 1,2, is 1,3"),
        (grid, "new", "code was code, is new"),
    ):
        with pytest.raises(UserError, match=f"--name one: that study is another: {said}"):
            open_study(tmp_path, "one", other, code).__enter__()
    journal.write_text("none\n")
    with pytest.raises(UserError, match=r"journal.jsonl: is damaged .*use another --name"):
        open_study(tmp_path, "one", grid, "code").__enter__()


def test_without_the_extra_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("pip install 'runrecord[sweep]'", "make setup EXTRAS=sweep"):
        with pytest.raises(UserError, match=re.escape(command)):
            require("no_such_package", "Ray", "sweep")
        (tmp_path / "requirements-sweep.lock").touch()


# What is given, and what is said.
REFUSED = {
    ("train.lr=1,2",): "FILE:NAME",
    ("train.lr=1,2", "--metric", "metrics.json"): "FILE:NAME",
    ("train.lr=1,2", "--metric", "other.json:x"): "no stage of dvc.yaml writes it",
    ("train.rl=1,2", *METRIC): "has no 'train.rl'",
    ("train.lr=1..2", *METRIC, "--search", "grid"): "a grid takes lists",
    ("train.lr=1,2", *METRIC, "--name", "a b"): "letters, digits",
    ("train.lr=1,2", *METRIC, "--name", "mine"): "mine-001 is an experiment already",
}


def test_what_is_refused_is_one_sentence_and_what_is_code_is_of_the_study(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = project.run("git", "rev-parse", "HEAD").strip()
    for name in ("mine-001", "yours-too-001"):
        project.run("git", "update-ref", experiment_ref(commit, name), commit)
    _check_names_free(project.path, "yours", commit)
    monkeypatch.chdir(project.path)
    for given, said in REFUSED.items():
        with pytest.raises(UserError, match=re.escape(said)):
            sweep(parser().parse_args(["sweep", *given]))
    assert not spool(project)
    before = _code(project.path, Project(), "train")
    (project.path / "report.html").write_text("of the study, which is no code of it")
    assert _code(project.path, Project(), "train") == before
    (project.path / "new.py").write_text("# code\n")
    assert _code(project.path, Project(), "train") != before


def task(project: Workspace, target: str, metric: str) -> Task:
    """Of a study that nobody else works on: its folder stays with the test's."""
    commit = project.run("git", "rev-parse", "HEAD").strip()
    file, _, name = metric.partition(":")
    wanted = Definition({}, file, name, "lower", "grid")
    with open_study(project.path, "plain", wanted, commit) as study:
        found = task_of(project.path, study, commit, b"", (target,))
    found.folder.mkdir()
    return found


def test_a_trial_has_the_variables_that_change_numbers_from_its_driver_alone(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "here")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    plain = task(project, "train", "metrics.json:Length")
    # On the worker, Ray has set others.
    ours = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "there"}
    for name, text in {**ours, "EDITOR": "vi"}.items():
        monkeypatch.setenv(name, text)
    found = environment_of(plain)
    assert found["OMP_NUM_THREADS"] == "2"
    assert "MKL_NUM_THREADS" not in found
    assert (found["MLFLOW_TRACKING_URI"], found["EDITOR"]) == ("here", "vi")


@pytest.mark.slow
def test_a_worker_on_a_project_that_logs_nothing(tmp_path: Path) -> None:
    """Its value is read; what one trial leaves is none of the next one's; none is infinite.

    Nothing is fetched again, where only an uncommitted dvc.lock knows of it and DVC has no copy of
    such a stage's run.
    """
    files = {
        ".gitignore": "/left\n/data.txt\n",
        "params.yaml": "value: 1\n",
        "dvc.yaml": "stages: {fetch: {cmd: cp ../source data.txt, outs: [data.txt: {persist: true}]"
        "}, make: {params: [value], deps: [data.txt], metrics: [metrics.yaml: {cache: false}], cmd:"
        " 'test ! -e left && touch left && sed s/value/loss/ params.yaml >metrics.yaml'}}",
    }
    project = new_project(tmp_path / "project", files)
    (tmp_path / "source").touch()
    project.run("dvc", "repro", "--quiet", "fetch")
    base = task(project, "make", "metrics.yaml:loss")
    found = [
        run_trial(replace(base, number=number, params={"value": value}))
        for number, value in enumerate((2.0, 3.0, math.inf))
    ]
    assert not [*base.folder.glob("tmp*")], "a trial leaves nothing"
    assert [(one.state, one.value) for one in found[:2]] == [("COMPLETE", 2.0), ("COMPLETE", 3.0)]
    assert (found[2].state, found[2].error) == ("FAIL", "metrics.yaml: loss is inf")
    kept = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/").split()
    names = {name: name.rpartition("/")[2] for name in kept if "/exps/exec/" not in name}
    assert sorted(names.values()) == ["plain-000", "plain-001"]
    assert project.run("git", "show", f"{max(names)}:params.yaml") == "value: 3.0\n"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["the cache", "the remote"])
def test_a_trial_has_the_data_that_dvc_tracks(where: str, tmp_path: Path) -> None:
    """Of a file, a folder, a part of one, and an import; committed or not; in any folder."""
    (tmp_path / "url.csv").write_text("4\n")
    stage = {
        "cmd": "cat data.csv raw/x.csv raw/sub/y.csv url.csv && cp params.yaml metrics.yaml",
        "params": ["loss"],
        "deps": ["data.csv", "raw", "raw/sub/y.csv", "url.csv"],
        "metrics": [{"metrics.yaml": {"cache": False}}],
    }
    files = {"params.yaml": "loss: 1\n", "dvc.yaml": json.dumps({"stages": {"make": stage}})}
    project = new_project(tmp_path / "한글 폴더", files)
    for name in ("data.csv", "raw/x.csv", "raw/sub/y.csv"):
        (project.path / name).parent.mkdir(parents=True, exist_ok=True)
        (project.path / name).write_text(f"{name}\n")
    project.run("dvc", "add", "--quiet", "data.csv", "raw")
    project.run("dvc", "import-url", "--quiet", str(tmp_path / "url.csv"))
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message=data")
    if where == "the remote":
        project.run("dvc", "remote", "add", "--quiet", "--default", "far", str(tmp_path / "far"))
        project.run("git", "commit", "--quiet", "--all", "--message=remote")
        project.run("dvc", "push", "--quiet")
        shutil.rmtree(project.path / ".dvc/cache")
    base = task(project, "make", "metrics.yaml:loss")
    for number in (0, 1):
        one = replace(base, number=number, params={"loss": number + 2.0})
        assert run_trial(one) == Outcome("COMPLETE", number + 2.0)


def test_a_trial_is_not_run_where_it_is_given_up_or_the_repository_is_not_seen(
    project: Workspace, tmp_path: Path
) -> None:
    """Its first worker died before it could say so; another machine has a disk of its own."""
    one = task(project, "train", "metrics.json:Length")
    one.why.write_text("worse")
    assert run_trial(one) == Outcome("PRUNED")
    found = run_trial(replace(one, folder=tmp_path / "elsewhere"))
    assert re.fullmatch(r"\S+ does not see \S+elsewhere; keep the repository on .*", found.error)


def test_whose_experiments_they_are_is_found_or_asked_for(
    project: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the repository's own settings too; clones have none of these."""
    for name in (*IDENTITY, "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    project.run("git", "config", "user.useConfigOnly", "true")
    with pytest.raises(UserError, match="Git does not know who you are"):
        task(project, "train", "metrics.json:Length")
    project.run("git", "config", "user.name", "Ada Lovelace")
    project.run("git", "config", "user.email", "ada@example.org")
    found = task(project, "train", "metrics.json:Length").environment
    assert found["GIT_AUTHOR_NAME"] == found["GIT_COMMITTER_NAME"] == "Ada Lovelace"
    assert found["GIT_AUTHOR_EMAIL"] == found["GIT_COMMITTER_EMAIL"] == "ada@example.org"
