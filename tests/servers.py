"""Real servers for tests: MLflow with users, on PostgreSQL; each ends with its context."""

import os
import pwd
import signal
import subprocess
import sys
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
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL server with its data in `folder`; yields its address."""
    port = free_port(15432)
    folder.mkdir()
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        for parent in folder.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
    data = folder / "data"

    def tool(name: str, *arguments: str) -> None:
        subprocess.run(
            [str(POSTGRES[-1] / name), *arguments],
            cwd=folder,
            user=user if os.geteuid() == 0 else None,
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
