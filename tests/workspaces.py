"""Workspaces: copies of this repository and small projects, and programs that run in them."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import warm
import yaml

from generative.data.sources import sha256_of
from runrecord.git.commands import git
from runrecord.provenance.environment import changes_numbers
from runrecord.store.runs import run_dirs

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
PATIENCE = 280.0  # seconds that a program may take
NO_SETTINGS = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "DVC_NO_ANALYTICS": "1",
}
"""Those of whoever runs the tests are not tried: they may sign commits, or end lines their way. And
DVC starts no process that tells its makers of each command."""


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
        variables = {**(environment or {}), **more}
        try:
            ended, output = warm.run(command, self.path, self.environment | variables, PATIENCE)
        except warm.Unlike:
            with self.start(*command, **variables) as process:
                output, _ = process.communicate(timeout=PATIENCE)
            ended = process.returncode
        assert ended == status, output
        return output

    def commit(self, message: str) -> "Workspace":
        """Commit all that there is."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", f"--message={message}")
        return self

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


def tracked(folder: Path) -> list[str]:
    """The files in a folder of this checkout that Git has, or would take."""
    listed = git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return listed.decode().split("\0")[:-1]


def new_workspace(path: Path) -> Workspace:
    """This checkout's files in a repository of their own, set to train briefly on the sample."""
    for name in tracked(ROOT):
        if name.startswith(("tests/", "docs/", "metrics/", "examples/")) or name == "dvc.lock":
            continue
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    workspace = Workspace(path)
    set_to_sample(workspace)
    workspace.run("git", "init", "--quiet", "--initial-branch=main")
    return workspace.commit("sample")


NUMERIC = """
    OMP_NUM_THREADS OMP_DYNAMIC OMP_SCHEDULE OMP_THREAD_LIMIT KMP_HW_SUBSET KMP_ALL_THREADS
    KMP_DETERMINISTIC_REDUCTION MKL_NUM_THREADS MKL_DOMAIN_NUM_THREADS MKL_DYNAMIC MKL_CBWR
    MKL_ENABLE_INSTRUCTIONS MKL_THREADING_LAYER OPENBLAS_NUM_THREADS OPENBLAS_CORETYPE
    BLIS_NUM_THREADS NUMEXPR_NUM_THREADS VECLIB_MAXIMUM_THREADS ATEN_CPU_CAPABILITY
    DNNL_MAX_CPU_ISA ONEDNN_MAX_CPU_ISA ONEDNN_DEFAULT_FPMATH_MODE NVIDIA_TF32_OVERRIDE
    TORCH_ALLOW_TF32_CUBLAS_OVERRIDE CUBLAS_WORKSPACE_CONFIG CUBLASLT_WORKSPACE_SIZE
    TORCH_CUDNN_V8_API_DISABLED TORCH_BLAS_PREFER_CUBLASLT TORCHINDUCTOR_MAX_AUTOTUNE
    TORCHDYNAMO_DISABLE NCCL_ALGO XLA_FLAGS TF_DETERMINISTIC_OPS JAX_ENABLE_X64 PYTHONHASHSEED
    GLIBC_TUNABLES BLIS_ARCH_TYPE RAYON_NUM_THREADS PYTHONOPTIMIZE PYTHONUTF8 LC_ALL TZ
"""
"""Variables that change numbers."""
RECORD_ONLY = {"RUNRECORD_SINKS": "off"}
TOY_TRAIN = ("python", "train.py")
TOY_STAGE = (
    *("python", "-c"),
    "from runrecord.run.process import run_stage; "
    "run_stage(lambda: exec(open('train.py').read(), {}))",
)
"""The same, run as this experiment's stages are."""
TOY = {
    ".gitignore": "/mlflow.db*\n/mlruns\n/tensorboard\n/model.bin\n/numbers.txt\n/records\n*.new\n",
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
        if str(epoch) in os.environ.get("PAUSE_AFTER", "").split(","):
            sys.stdin.readline()
    length = {"Length": float(np.linalg.norm(walk.place))}
    outs = {"model.bin": walk.place.tobytes(), "metrics.json": json.dumps(length).encode()}
    for name, content in outs.items():  # at once or not at all
        with open(f"{name}.new", "wb") as file:
            file.write(content)
        os.replace(f"{name}.new", name)
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
on, an evaluation. `PAUSE_AFTER=3,6` lets the training wait in these epochs for a line of its input,
or the end of it."""


def new_project(path: Path, files: Mapping[str, str]) -> Workspace:
    """A DVC repository of somebody else's, committed, with those files."""
    workspace = Workspace(path)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content, encoding="utf-8")
    workspace.run("git", "init", "--quiet", "--initial-branch=main")
    workspace.run("dvc", "init", "--quiet")
    return workspace.commit("begin")


def with_results(workspace: Workspace, **environment: str) -> Workspace:
    """The workspace after `dvc repro`, committed: records, and nothing in a tracker."""
    workspace.run("dvc", "repro", environment=RECORD_ONLY | environment)
    return workspace.commit("results")


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


def assert_nothing_left(workspace: Workspace) -> None:
    """No copy that a verification made is left."""
    assert not (workspace.path / ".runrecord" / "verify").exists()


EXPERIMENT = "mnist-generative"
STAGES = ["download-mnist", "train-ae", "train-vae", "train-gan", "evaluate"]
TRAIN = ("python", "stages/train_vae.py")
OUTS = ("models/vae.safetensors", "metrics/vae.json", "metrics/vae_history.csv")


def spool(workspace: Workspace) -> list[Path]:
    """The folders of the runs in the spool, the oldest first."""
    return run_dirs(workspace.path)


def history(workspace: Workspace, model: str) -> list[dict[str, str]]:
    with (workspace.path / "metrics" / f"{model}_history.csv").open() as file:
        return list(csv.DictReader(file))


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


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
    **environment: str,
) -> None:
    """Start a training that can pause, and stop it in the epoch after `after`."""
    with workspace.start(*command, PAUSE_AFTER=str(after + 1), **environment) as process:
        assert process.stdout is not None
        read_until(process.stdout, f"epoch {after + 1}/")
        process.send_signal(sent)
        process.stdout.read()
