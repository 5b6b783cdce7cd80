"""What tests share: workspaces, a look at what programs left, real servers."""

import ast
import csv
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from needs import POSTGRES, require

import runrecord
from generative.data.idx import sha256_of
from runrecord.git.commands import git
from runrecord.provenance.environment import changes_numbers
from runrecord.record.events import RunEnded, RunStarted
from runrecord.record.reader import Record, files_in
from runrecord.record.view import view
from runrecord.record.writer import RecordWriter
from runrecord.resume.checkpoints import Checkpoints
from runrecord.run.tracker import Tracker
from runrecord.store.runs import run_dirs
from runrecord.trackers.base import Sink

if TYPE_CHECKING:
    from generative.models.ae import AE
    from generative.models.base import Model, ModelConfig
    from generative.models.gan import GAN
    from generative.models.vae import VAE
    from generative.training.runtime import Compute

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "tests" / "data"
SAMPLE_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
IDENTITY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Test"), ("EMAIL", "test@example.org"))
}
NO_SETTINGS = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
"""Those of whoever runs the tests are not tried: they may sign commits, or end lines their way."""


@dataclass(frozen=True)
class Workspace:
    """A copy of the repository that a test may do anything to."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("DVC_", "MLFLOW_", "GIT_"))
            and not changes_numbers(key)  # as a test in this process may have set it
        }
        search = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        return kept | IDENTITY | NO_SETTINGS | {"PATH": search, "MNIST_MIRROR": str(SAMPLE)}

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a command here, its output in a pipe."""
        return subprocess.Popen(
            command,
            cwd=self.path,
            env=self.environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self,
        *command: str,
        status: int = 0,
        environment: Mapping[str, str] | None = None,
        **more: str,
    ) -> str:
        """Run a command here, expect its exit status, and return what it printed."""
        with self.start(*command, **{**(environment or {}), **more}) as process:
            output, _ = process.communicate(timeout=280)
        assert process.returncode == status, output
        return output

    def repro(self, *arguments: str, status: int = 0) -> list[str]:
        """`dvc repro`: the stages whose command ran."""
        output = self.run("dvc", "repro", *arguments, status=status)
        return [
            line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")
        ]

    def set_params(self, **values: object) -> None:
        """Set keys of params.yaml: `ae__lr=0.01` sets `ae.lr`."""
        document = self.params()
        for dotted, value in values.items():
            *blocks, key = dotted.split("__")
            target: Any = document
            for block in blocks:
                target = target[block]
            target[key] = value
        text = yaml.safe_dump(document, sort_keys=False)
        (self.path / "params.yaml").write_text(text)

    def params(self) -> dict[str, dict[str, object]]:
        """What params.yaml holds."""
        text = (self.path / "params.yaml").read_text()
        document: dict[str, dict[str, object]] = yaml.safe_load(text)
        return document

    def read(self, name: str) -> bytes:
        """A file's content."""
        return (self.path / name).read_bytes()

    def copy(self, to: Path) -> "Workspace":
        """An equal workspace elsewhere, without the runs of this one."""
        ignored = shutil.ignore_patterns(
            "mlflow.db*", "mlruns", "tensorboard", ".runrecord", "__pycache__"
        )
        shutil.copytree(self.path, to, symlinks=True, ignore=ignored)
        return Workspace(to)


def new_repository(folder: Path) -> Path:
    """A DVC repository of one small stage, `train`, committed."""
    files = {
        ".dvc/config": "",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        "src/code.py": "ONE = 1\n",
        "data/set/numbers.txt": "1 2 3\n",
        "params.yaml": "lr: 1\n",
        "dvc.yaml": "stages: {train: {cmd: python src/code.py, params: [lr], "
        "deps: [src/code.py, data/set], outs: [model.bin, records/train]}}\n",
        ".gitignore": "/model.bin\n/records\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=one", environment=IDENTITY)
    return folder


def new_run(folder: Path, **start: Any) -> runrecord.Run:
    """A run whose record is written to `folder`, by this process and for no sink."""
    given: dict[str, Any] = {
        "id": "run-1",
        "stage": "train",
        "time": 1,
        "host": "host",
        "params": {},
        "tags": {},
    }
    started = RunStarted(**(given | start))
    tracker = Tracker(RecordWriter(folder))
    tracker.log(started)
    return runrecord.Run(started, tracker, Checkpoints(folder.parent, {}))


def end_run(folder: Path, **end: Any) -> Record:
    """End the run whose record is in `folder`; that record."""
    given: dict[str, Any] = {"time": 9_000, "status": "FINISHED"}
    RecordWriter(folder, Record(files_in(folder)).size).write(RunEnded(**(given | end)))
    return Record(files_in(folder))


def play(root: Path, record: Record, *sinks: type[Sink], events: int | None = None) -> None:
    """Play the first events of a record into sinks, or all."""
    for kind in sinks:
        sink = kind(root)
        for event in list(record.events())[:events]:
            sink.handle(event, record.contents)
        sink.close()


_audits: list[tuple[str, list[tuple[Any, ...]]]] = []


@cache
def _audit() -> None:
    """Python takes no such hook back: it is added once."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        for one, told in _audits:
            if one == event:
                told.append(args)

    sys.addaudithook(hook)


@contextmanager
def audited(event: str) -> Iterator[list[tuple[Any, ...]]]:
    """What Python tells of an event, `open` for instance, while this goes on."""
    _audit()
    told: list[tuple[Any, ...]] = []
    _audits.append((event, told))
    try:
        yield told
    finally:
        _audits.remove((event, told))


def records_among(opened: Sequence[tuple[Any, ...]]) -> list[str]:
    """The runs whose records were opened, by their folders' names."""
    starts = (Path(os.fsdecode(args[0])) for args in opened if isinstance(args[0], str | bytes))
    return sorted(path.parent.name for path in starts if path.name == "run.json")


def assert_says(text: str, parts: str) -> None:
    """A text says these parts in their order, from its beginning; `...` stands for other words."""
    wanted = ".*".join(re.escape(part.strip()) for part in parts.split("..."))
    assert re.match(wanted, text, re.DOTALL), f"{text!r} does not say {parts!r}"


def code_blocks(text: str, language: str = "sh") -> list[str]:
    """What stands in the code blocks of a Markdown text; `language` is a pattern."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def set_to_sample(workspace: Workspace) -> None:
    """Let it train briefly, on the sample of MNIST, on one CPU: two tests run at once."""
    workspace.set_params(
        data__sha256=sha256_of(SAMPLE),
        compute__device="cpu",
        compute__threads=1,
        ae__epochs=2,
        ae__batch_size=100,
        vae__epochs=2,
        vae__hidden_dim=32,
        vae__latent_dim=8,
        gan__epochs=2,
        gan__batch_size=100,
        gan__hidden_dim=32,
        gan__latent_dim=8,
        evaluate__importance_samples=20,
    )


def new_workspace(path: Path) -> Workspace:
    """This checkout's files in a repository of their own, set to train briefly on the sample."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if name.startswith(("tests/", "docs/", "metrics/", "examples/")) or name == "dvc.lock":
            continue
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    workspace = Workspace(path)
    set_to_sample(workspace)
    workspace.run("git", "init", "--quiet", "--initial-branch=main")
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", "--message=sample")
    return workspace


RECORD_ONLY = {"RUNRECORD_SINKS": "off"}
TOY_TRAIN = ("python", "train.py")
TOY_STAGE = (
    *("python", "-c"),
    "from runrecord.run.process import run_stage; "
    "run_stage(lambda: exec(open('train.py').read(), {}))",
)
"""The same, run as this experiment's stages are."""
TOY = {
    ".gitignore": "/mlflow.db*\n/mlruns\n/tensorboard\n/model.bin\n/numbers.txt\n/records\n",
    "params.yaml": "train: {epochs: 8, lr: 0.5}\n",
    "dvc.yaml": """
stages:
  numbers:
    cmd: seq 100 > numbers.txt
    outs: [numbers.txt]
  train:
    cmd: exec python train.py
    params: [train]
    deps: [train.py, numbers.txt]
    outs: [model.bin, records/train]
    metrics: [{metrics.json: {cache: false}}]
  evaluate:
    cmd: exec python evaluate.py
    deps: [evaluate.py, model.bin]
    outs: [records/evaluation]
""",
    "train.py": """
import json, os, sys
import numpy as np
import runrecord

class Walk:
    place, random = np.zeros(3), np.random.Generator(np.random.MT19937(0))

    def state_dict(self):
        state = self.random.bit_generator.state["state"]
        return {"place": self.place, "key": state["key"], "pos": np.array(state["pos"])}

    def load_state_dict(self, arrays):
        self.place = arrays["place"]
        state = {"key": arrays["key"], "pos": int(arrays["pos"])}
        self.random.bit_generator.state = {"bit_generator": "MT19937", "state": state}

walk, numbers = Walk(), np.loadtxt("numbers.txt")
with runrecord.start_run("train") as run:
    epochs = run.params["train.epochs"]
    for epoch in run.epochs(epochs, walk):
        steps = walk.random.normal(size=(4, 3)) * run.params["train.lr"] + numbers.mean()
        walk.place = walk.place + steps.sum(axis=0)
        length = {"Length": float(np.linalg.norm(walk.place))}
        run.log(length, within={"Length": np.linalg.norm(steps, axis=1).tolist()})
        run.image("place", np.resize(walk.place, (4, 4)).astype(np.uint8))
        print(f"epoch {epoch}/{epochs}", flush=True)
        if os.environ.get("PAUSE_AFTER") == str(epoch):
            sys.stdin.read()
    with open("model.bin", "wb") as file:
        file.write(walk.place.tobytes())
    with open("metrics.json", "w") as file:
        json.dump({"Length": float(np.linalg.norm(walk.place))}, file)
    run.model("model.bin")
""",
    "evaluate.py": """
import numpy as np
import runrecord

with open("model.bin", "rb") as file:
    place = np.frombuffer(file.read(), np.float64)
size, curve = float(np.linalg.norm(place)), list(enumerate(place.tolist(), 1))
with runrecord.start_run("evaluate") as run:
    run.evaluation("model", "model.bin", {"Size": size}, {"Curve": curve})
""",
}
"""A project on the engine alone: a stage of the shell's, a training that can be stopped and goes
on, an evaluation. `PAUSE_AFTER=3` lets the training wait in epoch 3 until its input ends."""


def new_project(path: Path, files: Mapping[str, str]) -> Workspace:
    """A DVC repository of somebody else's, committed, with those files."""
    workspace = Workspace(path)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content, encoding="utf-8")
    workspace.run("git", "init", "--quiet", "--initial-branch=main")
    workspace.run("dvc", "init", "--quiet")
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", "--message=begin")
    return workspace


def with_results(workspace: Workspace, **environment: str) -> Workspace:
    """The workspace after `dvc repro`, committed: records, and nothing in a tracker."""
    workspace.run("dvc", "repro", environment=RECORD_ONLY | environment)
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", "--message=results")
    return workspace


IDENTICAL = "Verdict: bit-identical: "


def verify(
    workspace: Workspace, name: str, *options: str, status: int = 0, **environment: str
) -> str:
    """Verify a run, expecting an exit status; nothing may be left behind."""
    output = workspace.run(
        "runrecord", "verify", name, *options, status=status, environment=environment
    )
    assert_nothing_left(workspace)
    return output


def recorded(workspace: Workspace, command: Sequence[str]) -> str:
    """Train without MLflow and TensorBoard; the name of the run."""
    workspace.run(*command, environment=RECORD_ONLY)
    assert not (workspace.path / "mlflow.db").exists()
    assert not (workspace.path / "tensorboard").exists()
    return spool(workspace)[-1].name


def verdict(workspace: Workspace, run: Run) -> str:
    """What MLflow says of a run's verification by now."""
    (found,) = [other for other in runs(workspace) if other.info.run_id == run.info.run_id]
    return str(found.data.tags["verified"])


def assert_nothing_left(workspace: Workspace) -> None:
    """No copy that a verification made is left."""
    assert not (workspace.path / ".runrecord" / "verify").exists()


EXPERIMENT = "mnist-generative"
STAGES = ["download-mnist", "train-ae", "train-vae", "train-gan", "evaluate"]
TRAIN = ("python", "stages/train_vae.py")
OUTS = ("models/vae.safetensors", "metrics/vae.json", "metrics/vae_history.csv")


_forgotten: Counter[Path] = Counter()


def client(workspace: Workspace) -> MlflowClient:
    # MLflow keeps connections by address, also to a file that was deleted: each has its own.
    folder = f"{workspace.path}{'/.' * _forgotten[workspace.path]}"
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def forget_mlflow(workspace: Workspace) -> None:
    """Delete all that the embedded store has."""
    for path in workspace.path.glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(workspace.path / "mlruns", ignore_errors=True)
    _forgotten[workspace.path] += 1


def runs(workspace: Workspace, stage: str = "") -> list[Run]:
    """The workspace's runs, the newest first."""
    store = client(workspace)
    experiment = store.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = store.search_runs([experiment.experiment_id], order_by=["start_time DESC"])
    return [run for run in found if run.data.tags["mlflow.source.name"].startswith(stage)]


def points_in(file: Path) -> int:
    """How many metric points MLflow's database has by now; it may not be there yet."""
    address = f"file:{file}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM metrics").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def everything(workspace: Workspace) -> dict[str, Any]:
    """All that MLflow shows of each run, by the run's name; MLflow's own ids are left out."""
    store = client(workspace)
    found = {run.info.run_id: run for run in runs(workspace)}
    named = {run_id: run.info.run_name for run_id, run in found.items()}
    shown: dict[str, Any] = {}
    for run_id, run in found.items():
        full = store.get_run(run_id)
        names = {key: named.get(value, value) for key, value in run.data.tags.items()}
        names.pop("description.sha256")  # its text is compared
        for other, name in named.items():
            note = names["mlflow.note.content"].replace(other, name)
            names["mlflow.note.content"] = note
        model_id = names.pop("model.id", None)
        images = [file.path for file in store.list_artifacts(run_id, "images")]
        assert run.info.run_name not in shown, "one run a record"
        shown[run.info.run_name] = {
            "params": run.data.params,
            "tags": names,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "points": {key: points_of(workspace, run, key) for key in sorted(run.data.metrics)},
            "images": sorted(name.rpartition("+")[0] for name in images if name.endswith("png")),
            "data sets": [
                (entry.dataset.name, entry.dataset.digest) for entry in full.inputs.dataset_inputs
            ],
            "models read": len(full.inputs.model_inputs),
            "model": model_id and _model(store, model_id),
        }
    return shown


def _model(store: MlflowClient, model_id: str) -> dict[str, Any]:
    model = store.get_logged_model(model_id)
    folder = Path(model.artifact_location.removeprefix("file://"))
    return {
        "status": str(model.status),
        "params": model.params,
        "metrics": sorted((m.key, m.value, m.step, m.dataset_digest) for m in model.metrics or ()),
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")),
    }


def points_of(workspace: Workspace, run: Run, metric: str) -> list[tuple[int, float]]:
    """A metric's points, (step, value), doubled ones twice."""
    points = client(workspace).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def assert_shown(workspace: Workspace, folder: Path) -> None:
    """MLflow shows the run of a record once, each point once, with its true status and times."""
    seen = view(Record(files_in(folder)))
    start, end = seen.start, seen.record.end
    (run,) = [run for run in runs(workspace) if run.info.run_name == start.id]
    assert end is not None
    assert (run.info.status, run.info.start_time) == (end.status, start.time)
    for name, series in seen.series.items():
        expected = [(step, value) for step, (value, _) in series.items()]
        assert points_of(workspace, run, name) == expected
    names = [file.path for file in client(workspace).list_artifacts(run.info.run_id, "images")]
    shown = [name for name in names if "~" not in name and name.endswith(".png")]
    assert len(shown) == len(seen.images)
    if seen.models:
        model = client(workspace).get_logged_model(run.data.tags["model.id"])
        assert str(model.status) == "READY"


def spool(workspace: Workspace) -> list[Path]:
    """The folders of the runs in the spool, the oldest first."""
    return run_dirs(workspace.path)


def history(workspace: Workspace, model: str) -> list[dict[str, str]]:
    with (workspace.path / "metrics" / f"{model}_history.csv").open() as file:
        return list(csv.DictReader(file))


def event_files(workspace: Workspace, run: Run, part: str = "") -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage = run.data.tags["mlflow.source.name"]
    folder = workspace.path / "tensorboard" / stage / run.info.run_name / part
    everything = dict.fromkeys(("scalars", "images", "tensors"), 0)
    return EventAccumulator(str(folder), everything).Reload()


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):  # the latter: nobody had the port, and this reached itself
        return False


def read_until(stream: IO[str], wanted: str) -> None:
    for line in stream:
        if wanted in line:
            return
    raise AssertionError(f"the output ended without {wanted!r}")


@contextmanager
def terminal(workspace: Workspace, command: str) -> Iterator["subprocess.Popen[str]"]:
    """A command in a terminal of its own, whose processes all end with it."""
    with subprocess.Popen(
        ["sh", "-c", f"exec {command}"],
        cwd=workspace.path,
        env=workspace.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def some_port() -> int:
    """A port that nobody had a moment ago, another one at each call."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def documented_server(command: str, folder: Path) -> Iterator[str]:
    """The tracking server that a command of the docs starts, on this machine and a free port."""
    port = some_port()
    command = command.replace("0.0.0.0", "127.0.0.1").replace("5000", str(port))
    command = command.replace("tracker:", "127.0.0.1:")
    folder.mkdir()
    with terminal(Workspace(folder), f"{command} >log 2>&1"):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 120)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def mlflow_server(
    folder: Path, port: int, database: str, *arguments: str, program: str = ""
) -> Iterator[str]:
    """`mlflow server` on `port`, with its artifacts in `folder`; yields its address."""
    command = [program or str(Path(sys.executable).with_name("mlflow")), "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", database]
    command += ["--artifacts-destination", str(folder / "artifacts"), *arguments]
    address = f"http://127.0.0.1:{port}"
    with (folder / f"mlflow-{port}.log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_until(lambda: answers(f"{address}/health"), 120)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # a power cut, workers included
            process.wait()


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server on an empty database of its own; yields its address."""
    require("postgresql")
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        yield from _postgresql(Path(folder))


def _postgresql(folder: Path) -> Iterator[str]:
    port = some_port()
    user = None
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        user = "postgres"
        shutil.chown(folder, user)
    data = folder / "data"

    def tool(name: str, *arguments: str) -> None:
        subprocess.run(
            [str(POSTGRES[-1] / name), *arguments],
            cwd=folder,
            user=user,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    tool("initdb", "--pgdata", str(data), "--auth", "trust", "--username", "mlflow")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
    tool("pg_ctl", "start", "-w", "-D", str(data), "-l", str(folder / "log"), "-o", options)
    try:
        tool("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow")
        yield f"postgresql://mlflow@127.0.0.1:{port}/mlflow"
    finally:
        tool("pg_ctl", "stop", "-w", "-D", str(data), "-m", "immediate")


def imported_files(script: Path, root: Path) -> set[str]:
    """Paths, relative to `root`, of every file that `script` can come to import, itself included.

    Imports under `TYPE_CHECKING` never run and do not count; those inside functions do.
    """
    folders = [root / "stages", root / "src"]
    found: set[Path] = set()
    todo = [script.resolve()]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        for module in _imports(ast.parse(path.read_text())):
            parts = module.split(".")
            for length in range(1, len(parts) + 1):
                todo += [file for folder in folders for file in _files(folder, parts[:length])]
    return {str(path.relative_to(root.resolve())) for path in found}


def _files(folder: Path, parts: list[str]) -> list[Path]:
    base = folder.joinpath(*parts)
    candidates = [base.with_suffix(".py"), base / "__init__.py"]
    return [path.resolve() for path in candidates if path.is_file()]


def _imports(tree: ast.AST) -> set[str]:
    modules: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        modules |= _imports(node)
    return modules


def let_it_pause(workspace: Workspace) -> None:
    """Let this experiment's trainings wait in the epoch `PAUSE_AFTER`, as the toy project's do."""
    path = workspace.path / "src/generative/pipeline/train.py"
    text, line = path.read_text(), "            show(result.epoch, result.means, seconds)\n"
    assert text.count(line) == 1
    wait = f'{line}            if os.environ.get("PAUSE_AFTER") == str(result.epoch):\n'
    wait += "                sys.stdin.read()\n"
    text = text.replace("import json\n", "import json\nimport os\nimport sys\n", 1)
    path.write_text(text.replace(line, wait))


def stop(
    workspace: Workspace,
    after: int,
    sent: signal.Signals = signal.SIGKILL,
    command: Sequence[str] = TRAIN,
) -> None:
    """Start a training that can pause, and stop it in the epoch after `after`."""
    with workspace.start(*command, PAUSE_AFTER=str(after + 1)) as process:
        assert process.stdout is not None
        read_until(process.stdout, f"epoch {after + 1}/")
        process.send_signal(sent)
        process.stdout.read()


def modules_imported(source: str) -> dict[str, bool]:
    """What a module imports, `a` and `a.b` for `from a import b`: is it only inside functions?

    Imports under `TYPE_CHECKING` never run and do not count.
    """
    found: dict[str, bool] = {}

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom) and child.module:
                names = [child.module, *(f"{child.module}.{a.name}" for a in child.names)]
            for name in names:
                found[name] = found.get(name, True) and inside
            visit(child, inside or isinstance(child, ast.FunctionDef))

    visit(ast.parse(source), False)
    return found


CPU = torch.device("cpu")
no_cuda = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason="this machine has a CUDA device; hide it with CUDA_VISIBLE_DEVICES=",
)
_COMMON: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 10,
    "lr": 0.001,
    "weight_decay": 0.0,
    "optimizer": "adam",
}


def ae(latent_dim: int = 4, **changes: Any) -> "AE":
    """An untrained autoencoder."""
    from generative.models.ae import AE, AEConfig

    defaults: dict[str, Any] = {"loss": "mse", "noise_factor": 0.3, "target": "noisy"}
    return AE(AEConfig(**_COMMON, latent_dim=latent_dim, **(defaults | changes)))


def vae(latent_dim: int = 200, **changes: Any) -> "VAE":
    """An untrained variational autoencoder."""
    from generative.models.vae import VAE, VAEConfig

    defaults: dict[str, Any] = {"hidden_dim": 400, "beta": 1.0}
    return VAE(VAEConfig(**_COMMON, latent_dim=latent_dim, **(defaults | changes)))


def gan(latent_dim: int = 8, **changes: Any) -> "GAN":
    """An untrained generative adversarial network."""
    from generative.models.gan import GAN, GANConfig

    defaults: dict[str, Any] = {"hidden_dim": 32, "beta1": 0.5, "instance_noise": 1.0}
    return GAN(GANConfig(**_COMMON, latent_dim=latent_dim, **(defaults | changes)))


def noise(purpose: str = "noise") -> torch.Generator:
    """A random stream on the CPU, the same for the same purpose."""
    from generative.rng import generator

    return generator(CPU, 0, purpose)


def compute(**changes: Any) -> "Compute":
    """The `compute` block for one thread of a CPU."""
    from generative.training.runtime import Compute

    defaults: dict[str, Any] = {
        "device": "cpu",
        "threads": 1,
        "precision": "float32",
        "deterministic": True,
    }
    return Compute(**(defaults | changes))


def config(model_class: "type[Model[Any]]", **changes: Any) -> "ModelConfig":
    """A model's config for a short training on the sample."""
    models: list[Model[Any]] = [ae(), vae(8, hidden_dim=32), gan()]
    base: ModelConfig = next(one.config for one in models if isinstance(one, model_class))
    return base.model_copy(update={"epochs": 2, "batch_size": 100} | changes)
