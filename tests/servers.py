"""Real servers: MLflow's, PostgreSQL, one that the docs start."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from needs import POSTGRES, require
from workspaces import Workspace, terminal, wait_until


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):  # the latter: nobody had the port, and this reached itself
        return False


def some_port() -> int:
    """A port that nobody had a moment ago, another one at each call."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextmanager
def viewing(
    workspace: Workspace,
    viewer: str,
    *options: str,
    port: int = 0,
    program: tuple[str, ...] = ("runrecord",),
    said: list[str] | None = None,
    **environment: str,
) -> Iterator[str]:
    """The address of a running viewer; when it has ended, `said` has what else it printed."""
    command = (*program, viewer, "--port", str(port or some_port()), *options)
    with workspace.start(*command, **NO_JOBS, **environment) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://[\d.:]+", process.stdout.readline())
            assert found
            address = found.group()
            wait_until(lambda: answers(address), 120)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:  # TensorBoard hangs in its own end, now and then
                process.kill()
            assert process.stdout is not None
            if said is not None:
                said.append(process.stdout.read())  # what `readline` has read ahead, too


@contextmanager
def documented_server(command: str, folder: Path) -> Iterator[str]:
    """The tracking server that a command of the docs starts, on this machine and a free port."""
    port = some_port()
    command = command.replace("0.0.0.0", "127.0.0.1").replace("5000", str(port))
    command = command.replace("tracker:", "127.0.0.1:")
    folder.mkdir()
    with terminal(Workspace(folder), f"{command} --workers 1 >log 2>&1"):  # which is sooner there
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 120)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def mlflow_server(folder: Path, port: int, database: str, *arguments: str) -> Iterator[str]:
    """`mlflow server` on `port`, with its artifacts in `folder`; yields its address."""
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", database]
    command += ["--artifacts-destination", str(folder / "artifacts"), *arguments]
    address = f"http://127.0.0.1:{port}"
    with (folder / f"mlflow-{port}.log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_until(lambda: answers(f"{address}/health"), 240)
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
