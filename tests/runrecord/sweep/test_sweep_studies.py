"""Whole studies: `runrecord sweep` on Ray, Optuna, DVC and MLflow as they are."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from mlflow_views import runs
from servers import some_port
from workspaces import (
    EXPERIMENT,
    IDENTICAL,
    RECORD_ONLY,
    TOY,
    Workspace,
    new_project,
    read_until,
    spool,
    wait_until,
    with_results,
)

from runrecord.record.events import RecordRefused
from runrecord.record.reader import Record, files_in, view

if TYPE_CHECKING:
    from mlflow.entities import Run
    from optuna.trial import FrozenTrial

pytestmark = [pytest.mark.needs("sweep"), pytest.mark.slow]

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
    copy.commit("by hand")
    value = json.loads(copy.read("metrics.json"))["Length"]
    model = locked(copy, "HEAD")["model.bin"]
    shutil.rmtree(folder)
    return model, value


def tried(output: str, name: str) -> list[str]:
    """The trials that were run, in the order in which they ended."""
    return re.findall(rf"^{name}-\d+", output, re.MULTILINE)


def trials(project: Workspace, name: str) -> "dict[int, FrozenTrial]":
    """The last attempts at a study's trials."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    journal = JournalFileBackend(str(study_folder(project.path, name) / "journal.jsonl"))
    storage = optuna.storages.JournalStorage(journal)
    attempts = optuna.load_study(study_name=name, storage=storage).trials
    return {one.user_attrs["number"]: one for one in attempts}


def study_folder(root: Path, name: str) -> Path:
    return root / ".runrecord" / "studies" / name


def under_study(project: Workspace) -> "tuple[Run, list[Run]]":
    """In MLflow: the study's one run, and the trials beneath it."""
    project.run("runrecord", "sync")  # of what was killed, it may lack the end
    (parent,) = runs(project, "sweep")
    trained = runs(project, "train")
    own = {"mlflow.parentRunId": parent.info.run_id}.items()
    return parent, [one for one in trained if own <= one.data.tags.items()]


def own_runs(project: Workspace, name: str) -> list[Path]:
    """The folders of the study's own runs."""
    return [path for path in spool(project) if path.name.startswith(f"{name}-sweep-")]


def test_a_trial_that_no_machine_can_run_is_refused_or_has_failed(
    bare: Workspace, tmp_path: Path
) -> None:
    """One that is larger than any machine; one that is killed for memory each time."""
    project = bare.copy(tmp_path / EXPERIMENT)
    large = (*SWEEP, "train.lr=1,2", *METRIC, "--name", "large", "--gpus", "64")
    said = project.run(*large, status=2, environment=RECORD_ONLY)
    assert "no machine of Ray's has 1 CPUs and 64 GPUs for a trial; ask for less" in said
    environment = {**RECORD_ONLY, "RAY_memory_usage_threshold": "0.001"}
    said = project.run(*SWEEP, "train.lr=1", *METRIC, status=1, environment=environment)
    left = re.findall(r"There are (\w+) oom retries remaining", said)
    assert max(left) == "3", "Ray itself says how often it will try again"
    assert "failed: its machine ran out of memory each time; lower --jobs" in said
    assert "ran out of memory" in project.run("runrecord", "show", spool(project)[-1].name)


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
    assert [found[n].state.name for n in range(3)] == ["COMPLETE", "FAIL", "COMPLETE"]
    best = min(found[0].value, found[2].value)
    assert f"dvc exp apply walk-{0 if found[0].value == best else 2:03}" in output
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
        locks = (project.run("git", "show", f"{one}:dvc.lock") for one in (kept[name], "HEAD"))
        now, before = (lock.partition("evaluate")[2].partition("numbers:")[0] for lock in locks)
        assert now == before, "evaluate did not run"
    # MLflow has them beneath the study's run, with the plots.
    (own,) = own_runs(project, "walk")
    record = Record(files_in(own))
    parent, children = under_study(project)
    assert parent.info.run_name == record.start.id
    assert parent.data.metrics["Length"] == best
    assert parent.data.params["space.train.lr"] == "0.5,0,2.5"
    assert {run.data.tags["dvc.experiment"]: run.info.status for run in children} == {
        "walk-000": "FINISHED",
        "walk-001": "FAILED",
        "walk-002": "FINISHED",
    }
    # The report has all of it.
    report = tmp_path / "report.html"
    project.run("runrecord", "report", "walk", "--output", str(report))
    page = report.read_text()
    assert f"<h1>{record.start.id}</h1>" in page
    assert "walk-002" in page
    # Again, as JSON: only what failed is tried; nothing, if the study or the code is another.
    again = (*SWEEP, "train.lr=0.5,0,2.5", *METRIC, "--name", "walk")
    output, _, document = project.run(*again, "--json", status=1).partition("\n{\n")
    assert tried(output, "walk") == ["walk-001"]
    told = json.loads(f"{{{document}")
    assert (told["study"], told["space"]) == ("walk", {"train.lr": "0.5,0,2.5"})
    assert told["trials"][0] == {
        **{"trial": f"walk-{0 if found[0].value == best else 2:03}", "state": "done"},
        **{"train.lr": 0.5 if found[0].value == best else 2.5, "Length": best},
    }
    assert told["trials"][2]["state"] == "failed: SystemExit: error: lr is 0"
    other = project.run(*SWEEP, "train.lr=1,2", *METRIC, "--name", "walk", status=2)
    assert "that study is another: space.train.lr was 0.5,0,2.5, is 1,2; restore" in other
    (project.path / "train.py").write_text("raise SystemExit('error: edited since')\n")
    other = project.run(*again, status=2)
    assert "that study is another: code was commit " in other
    # What it has is taken and proved.
    project.run("git", "checkout", "--quiet", ".")
    (project.path / "new.py").unlink()
    project.run("dvc", "exp", "apply", "walk-002")
    assert json.loads(project.read("metrics.json"))["Length"] == found[2].value
    assert "train.py" not in project.run("dvc", "status", "train")
    assert IDENTICAL in project.run("runrecord", "verify", "walk-002:train")
    left = {path.name for path in study_folder(project.path, "walk").iterdir()}
    assert left == {"journal.jsonl", "lock"}
    # Without the study's own runs, its trials' are found by their tag.
    for folder in own_runs(project, "walk"):
        shutil.rmtree(folder)
    project.run("runrecord", "report", "walk", "--output", str(report))
    assert "walk-002" in report.read_text()


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

    wait_until(holds, 300)
    (folder,) = [path for path in spool(project) if path.name.startswith(name)]
    return int(json.loads((folder / ".place").read_text())["process"])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_it_resumes_where_it_was(
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
        assert "the same command resumes it" in output
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[signum]
    wait_until(lambda: not psutil.pid_exists(stage))
    (hold / "1.5-3").unlink()
    output = project.run(*given, environment=RECORD_ONLY)
    assert tried(output, "stopped") == ["stopped-001"]
    (folder,) = [path for path in spool(project) if path.name.startswith("stopped-001")]
    assert view(Record(files_in(folder))).status == "FINISHED"
    assert "resumed" in (folder / "events.jsonl").read_text()
    values = {"lr": 1.5, "epochs": 5}
    kept, found = experiments(project), trials(project, "stopped")[1]
    gave = locked(project, kept["stopped-001"])["model.bin"], found.value
    assert gave == by_hand(project, tmp_path / "by hand" / EXPERIMENT, values)


def test_a_trial_that_is_worse_is_given_up_and_tagged(project: Workspace, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.mkdir()
    (hold / "4000.0-4").touch()  # it would last for ever
    given = ("train.lr=0.5,0.6,0.7,0.8,4000.0", "train.epochs=8", *METRIC, "--prune")
    output = project.run(*SWEEP, *given, "--name", "pruned", HOLD=str(hold))
    found = trials(project, "pruned")
    assert found[4].state.name == "PRUNED"
    assert "given up at epoch" in output
    assert "pruned-004" not in experiments(project)
    (run,) = [one for one in under_study(project)[1] if one.data.tags.get("study.pruned")]
    assert run.info.status == "KILLED"
    assert "worse than what most trials" in run.data.tags["study.pruned"]


@contextmanager
def cluster(folder: Path, nodes: int, **more: str) -> Iterator[dict[str, str]]:
    """A Ray cluster of a head, which runs no trial, and nodes with those variables."""
    address = f"127.0.0.1:{some_port()}"
    there = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    common = ("--block", "--object-store-memory=80000000", "--disable-usage-stats")
    head = ("--head", f"--port={address.partition(':')[2]}", "--num-cpus=0")
    node = (f"--address={address}", "--num-cpus=1")
    folder.mkdir()
    with ExitStack() as stack:
        for own in [(*head, "--include-dashboard=false"), *[node] * nodes]:
            command = ("ray", "start", *own, *common)
            process = stack.enter_context(Workspace(folder).start(*command, **there, **more))
            stack.callback(end_all, psutil.Process(process.pid))
            assert process.stdout is not None
            read_until(process.stdout, "--block")
        yield {"RAY_ADDRESS": address, **there}


def end_all(process: psutil.Process) -> None:
    for one in [*process.children(recursive=True), process]:
        with suppress(psutil.Error):
            one.kill()


def test_a_cluster_one_of_whose_nodes_dies_gives_what_is_got_by_hand(
    project: Workspace, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hold.mkdir()
    (hold / "0.75-3").touch()
    rates = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    space = (f"train.lr={','.join(map(str, rates))}", "train.epochs=4,5")
    with (
        cluster(tmp_path / "ray", 2, HOLD=str(hold)) as there,
        started(project, *SWEEP, *space, *METRIC, "--name", "many", **there) as process,
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
    assert [trial.state.name for trial in found.values()] == ["COMPLETE"] * 12
    kept = experiments(project)
    for number, trial in found.items():
        values = {name.removeprefix("train."): value for name, value in trial.params.items()}
        gave = locked(project, kept[f"many-{number:03}"])["model.bin"], trial.value
        assert gave == by_hand(project, tmp_path / "by hand" / EXPERIMENT, values)
    # What was killed resumed from its checkpoint, in the same run.
    (folder,) = [path for path in spool(project) if path.name.startswith("many-004")]
    assert "resumed" in (folder / "events.jsonl").read_text()
    assert len(under_study(project)[1]) == 12
    for name in ("many-004", "many-011"):
        assert IDENTICAL in project.run("runrecord", "verify", f"{name}:train")
    project.run("dvc", "exp", "apply", "many-007")
    project.run("dvc", "checkout")
    assert json.loads(project.read("metrics.json"))["Length"] == found[7].value
