"""README's own commands, read out of it and run in their order, as a stranger would."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_views import runs_in
from servers import answers, documented_server
from workspaces import (
    ROOT,
    SAMPLE,
    STAGES,
    Workspace,
    code_blocks,
    new_workspace,
    terminal,
    wait_until,
)

BLOCKS = code_blocks((ROOT / "README.md").read_text(encoding="utf-8"))
NOT_RUN = {
    "make test": "it would run this test",
    "source .venv/bin/activate": "the environment is ready",
}
SMALLER = {
    "split.validation=10000": "split.validation=100",
    "vae.latent_dim=2,10,50 vae.epochs=5": "vae.latent_dim=2,10 vae.epochs=1",
    "RUN": "records/ae",
}
"""What a command says, and what is run: the sample is small, and two trials are a study."""


def commands(block: str) -> list[str]:
    """Its commands, less comments; a line that ends with a backslash goes on."""
    lines = block.replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+# .*", "", line).strip() for line in lines]


def ready(command: str) -> str:
    """The same command where the environment is set up already, and is no `.venv`."""
    return re.sub(r"\bmake (?=\w)", f"make -o setup -o {ROOT}/.venv/installed ", command)


def look_at(workspace: Workspace, command: str) -> None:
    """Start a viewer, wait until its page answers, and end it with Ctrl-C."""
    with terminal(workspace, ready(command)) as process:
        assert process.stdout is not None
        address = next(
            found[0] for line in process.stdout if (found := re.search(r"http://[\d.:]+", line))
        )
        wait_until(lambda: answers(address), 120)
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):  # TensorBoard hangs in its own end, now and then
            process.communicate(timeout=20)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A clone of a repository whose results somebody else has committed; with few epochs."""
    folder = tmp_path_factory.mktemp("readme")
    theirs = new_workspace(folder / "theirs")
    theirs.set_params(ae__epochs=1, vae__epochs=1, gan__epochs=1)
    theirs.run("dvc", "repro", RUNRECORD_SINKS="off")
    theirs.commit("their results").run(
        "git", "clone", "--quiet", "--bare", ".", str(folder / "bare.git")
    )
    theirs.run("git", "clone", "--quiet", str(folder / "bare.git"), str(folder / "clone"))
    return Workspace(folder / "clone")


@pytest.fixture(scope="module")
def tracker(stranger: Workspace) -> Iterator[str]:
    """The README's own tracking server, on this machine and a free port."""
    (command,) = [one for block in BLOCKS for one in commands(block) if "mlflow server" in one]
    with documented_server(command, stranger.path.parent / "tracker") as address:
        yield address


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_runs(stranger: Workspace, tracker: str) -> None:
    seen: list[str] = []
    for block in BLOCKS:
        if "mlflow server" in block:
            continue  # it runs already
        if "git clone REPOSITORY" in block:
            on_a_server(stranger.path.parent, block, tracker)
            seen += commands(block)
            continue
        for command in commands(block):
            again = command in seen
            seen.append(command)
            if command in NOT_RUN:
                continue
            if command in ("make mlflow", "make tensorboard"):
                if not again:
                    look_at(stranger, command)
                continue
            for large, small in SMALLER.items():
                command = command.replace(large, small)
            said = stranger.run("sh", "-c", ready(command))
            assert "Traceback" not in said, command
            if command.startswith("runrecord report HEAD:ae"):
                page = stranger.read("report.html")
                assert {*re.findall(b"clean|noisy", page)} == {b"clean", b"noisy"}
            if command == "dvc metrics diff":
                assert "vae" not in said, "the model that nobody touched shows no difference"
    assert {"make repro", "dvc exp apply clean", "runrecord compare HEAD:ae clean:ae"} <= {*seen}
    assert len(seen) > 30


def on_a_server(folder: Path, block: str, address: str) -> None:
    """The block for a GPU server: a clone, a tracker, a remote; then all is there for others."""
    server = Workspace(folder / "server")
    server.path.mkdir()
    script = block.replace("REPOSITORY && cd REPOSITORY", f"{folder / 'bare.git'} work && cd work")
    script = script.replace("/shared/dvc", str(folder / "shared"))
    script = script.replace("http://tracker:5000", address)
    script = script.replace("make setup && source .venv/bin/activate", "true")
    server.run("bash", "-ec", ready(script), MNIST_MIRROR=str(SAMPLE))
    assert len(runs_in(MlflowClient(address))) == len(STAGES)

    elsewhere = Workspace(folder / "elsewhere")
    server.run("git", "clone", "--quiet", str(folder / "bare.git"), str(elsewhere.path))
    elsewhere.run("dvc", "remote", "add", "--quiet", "--default", "s", str(folder / "shared"))
    elsewhere.run("dvc", "pull")
    assert (elsewhere.path / "models/vae.safetensors").exists()
