"""`runrecord mlflow` and `runrecord tensorboard`: the two user interfaces."""

import os
import socket
import sys

from runrecord.errors import UserError, require
from runrecord.project import repo_root
from runrecord.safety.secrets import redact
from runrecord.safety.text import shown
from runrecord.trackers.mlflow.store import artifact_location, is_database, tracking_uri
from runrecord.trackers.player import Store
from runrecord.trackers.tensorboard import event_folder

HOST = "127.0.0.1"


def view(viewer: str, host: str, port: int) -> None:
    """Become the viewer's server, which Ctrl-C ends; where a server has MLflow's runs, name it.

    Raises:
        UserError: the server does not answer, or no port is free.
    """
    root = repo_root()
    uri = tracking_uri(root)
    if viewer == "mlflow":
        page = f"/#/experiments/{Store(root).experiment}/runs"  # it makes a missing database
        if not is_database(uri):
            print(f"mlflow  {shown(redact(uri).rstrip('/') + page)}", flush=True)
            return
        os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # no argument: it may hold a password
        command = ["mlflow", "server", "--workers", "1"]
        command += ["--default-artifact-root", artifact_location(root)]
        # Eight processes for jobs that no run of ours has: they take seconds to begin and to end.
        os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    else:
        require("tensorboard", "TensorBoard", "tensorboard")
        page = "/#scalars"  # the losses; pictures come first on its own first page
        command = ["tensorboard.main", "--logdir", str(event_folder(root))]
    port = free_port(port, host)
    address = f"http://{HOST if host == '0.0.0.0' else host}:{port}"  # noqa: S104
    print(f"{viewer}  {address}{page}\nCtrl-C ends it.", flush=True)
    if host != HOST:
        print(
            f"warning: whoever reaches {host} can see and change all runs: there is no password.",
            file=sys.stderr,
        )
    elif "SSH_CONNECTION" in os.environ:
        print(
            f"From your own machine: ssh -L {port}:{HOST}:{port} {socket.gethostname()}", flush=True
        )
    command += ["--host", host, "--port", str(port)]
    # As a module (their programs may lie elsewhere), and none that the current folder has (-P).
    os.execv(sys.executable, [sys.executable, "-P", "-m", *command])  # noqa: S606


def free_port(wanted: int, host: str = HOST) -> int:
    """`wanted`, or the first free port after it."""
    last = min(wanted + 99, 65535)
    for port in range(wanted, last + 1):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except socket.gaierror:
                raise UserError(f"--host {host}: no such host here.") from None
            except OSError:
                continue
            return port
    raise UserError(f"no free port from {wanted} to {last}; name one with --port.")
