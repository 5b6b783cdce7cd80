"""`runrecord mlflow` and `runrecord tensorboard`: the two user interfaces."""

import os
import socket
import sys
import time
import webbrowser

from runrecord.errors import UserError, require
from runrecord.project import repo_root
from runrecord.safety.secrets import redact
from runrecord.safety.text import shown
from runrecord.trackers.mlflow.store import artifact_location, is_database, tracking_uri
from runrecord.trackers.mlflow.views import VIEWS, page_of
from runrecord.trackers.player import Store
from runrecord.trackers.tensorboard import event_folder

HOST = "127.0.0.1"
PATIENCE = 120.0  # seconds that a viewer may take to answer, before a browser is opened


def view(viewer: str, host: str, port: int) -> None:
    """Become the viewer's server, which Ctrl-C ends; where a server has MLflow's runs, name it.

    Raises:
        UserError: the server does not answer, or no port is free.
    """
    root = repo_root()
    pages = {viewer: "/#scalars"}  # the losses; pictures come first on its own first page
    uri = tracking_uri(root)
    if viewer == "mlflow":
        store = Store(root)  # the database may not exist yet
        store.save_views()
        pages = {name: page_of(store.experiment, key) for key, name in VIEWS.items()}
        if not is_database(uri):
            _show(redact(uri).rstrip("/"), pages)
            return
        os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # no argument: it may hold a password
        command = ["mlflow", "server", "--workers", "1"]
        command += ["--default-artifact-root", artifact_location(root)]
        # Eight processes for jobs that no run of ours has: they take seconds to begin and to end.
        os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    else:
        require("tensorboard", "TensorBoard", "tensorboard")
        command = ["tensorboard.main", "--logdir", str(event_folder(root))]
    port = free_port(port, host)
    _show(f"http://{HOST if host == '0.0.0.0' else host}:{port}", pages)  # noqa: S104
    _say_who_can_see_it(host, port)
    command += ["--host", host, "--port", str(port)]
    # As a module (their programs may lie elsewhere), and none that the current folder has (-P).
    os.execv(sys.executable, [sys.executable, "-P", "-m", *command])  # noqa: S606


def _show(address: str, pages: dict[str, str]) -> None:
    """Print the address of each page; where there is a screen, open the first in a browser.

    A process of its own waits until the server answers, opens it, and ends.
    """
    for name, page in pages.items():
        print(f"{name}  {shown(address + page)}", flush=True)
    screen = sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if not screen or os.fork():
        return
    host, _, port = address.rpartition("/")[2].partition(":")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port or 443)), timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            webbrowser.open(address + next(iter(pages.values())))
            break
    os._exit(0)


def _say_who_can_see_it(host: str, port: int) -> None:
    print("Ctrl-C ends it.", flush=True)
    if host != HOST:
        print(
            f"warning: whoever reaches {host} can see and change all runs: there is no password.",
            file=sys.stderr,
        )
    elif "SSH_CONNECTION" in os.environ:
        print(
            f"From your own machine: ssh -L {port}:{HOST}:{port} {socket.gethostname()}", flush=True
        )


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
