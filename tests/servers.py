"""Real servers for tests: MLflow with users, on PostgreSQL; each ends with its context."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from observing import answers, wait_until

from generative.commands.viewers import free_port

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


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
            wait_until(lambda: answers(f"{address}/health"), 120)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # a power cut, workers included
            process.wait()


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server on an empty database of its own; yields its address."""
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        yield from _postgresql(Path(folder))


def _postgresql(folder: Path) -> Iterator[str]:
    port = free_port(15432)
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
