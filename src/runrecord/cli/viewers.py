"""`runrecord mlflow` and `runrecord tensorboard`: the two user interfaces, on localhost."""

import os
import socket
import sys
from pathlib import Path

from runrecord.errors import UserError
from runrecord.extras import require
from runrecord.paths import repo_root
from runrecord.sinks.mlflow_store import artifact_location, connect, is_embedded, tracking_uri
from runrecord.sinks.tensorboard import event_folder

HOST = "127.0.0.1"


def view(viewer: str, port: int) -> None:
    """Become the viewer's server; it ends with Ctrl-C.

    Raises:
        UserError: MLFLOW_TRACKING_URI names a server, which has a user interface of its own.
    """
    root = repo_root()
    port = free_port(port)
    if viewer == "mlflow":
        uri = tracking_uri(root)
        if not is_embedded(uri):
            raise UserError("MLFLOW_TRACKING_URI names a server; open its address in a browser.")
        _, experiment = connect(root)  # the database may not exist yet
        page = f"/#/experiments/{experiment}/runs?workflowType=machine_learning"
        command = ["mlflow", "server", "--backend-store-uri", uri]
        command += ["--default-artifact-root", artifact_location(root), "--workers", "1"]
    else:
        require("tensorboard", "TensorBoard", "tensorboard")
        page = "/#timeseries"
        command = ["tensorboard", "--logdir", str(event_folder(root))]
    command += ["--host", HOST, "--port", str(port)]
    print(f"{viewer}: http://{HOST}:{port}{page}  (Ctrl-C ends it)", flush=True)
    os.execv(Path(sys.executable).with_name(command[0]), command)  # noqa: S606


def free_port(wanted: int) -> int:
    """`wanted`, or the first free port after it."""
    for port in range(wanted, wanted + 100):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise UserError(f"no free port from {wanted} to {wanted + 99}; name one with --port.")
