"""An MLflow server that fails in each call in each way: the run ends well, and sync mends MLflow.

A proxy stands before a real server of MLflow's, in this process, and injects one fault at one kind
of call. What MLflow has at last must be what it has of a run that nothing disturbed.
"""

import http.client
import logging
import platform
import re
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow_views import everything_in

import runrecord
from records import end_run, new_run
from runrecord.cli.upkeep import sync
from runrecord.errors import RunFailed, UserError
from runrecord.record.events import Dataset
from runrecord.trackers.follow import Showing
from runrecord.trackers.mlflow.sink import MlflowSink

API = "/api/2.0/mlflow"
CALLS = {
    "get the experiment": ("GET", f"{API}/experiments/get-by-name"),
    "create the experiment": ("POST", f"{API}/experiments/create"),
    "look at the experiment": ("GET", f"{API}/experiments/get$"),
    "search runs": ("POST", f"{API}/runs/search"),
    "create the run": ("POST", f"{API}/runs/create"),
    "get the run": ("GET", f"{API}/runs/get$"),
    "log a batch": ("POST", f"{API}/runs/log-batch"),
    "log inputs": ("POST", f"{API}/runs/log-inputs"),
    "update the run": ("POST", f"{API}/runs/update"),
    "set a tag": ("POST", f"{API}/runs/set-tag"),
    "upload a file": ("PUT", "/api/2.0/mlflow-artifacts/artifacts/.*(provenance|images|texts)/"),
    "upload a model": ("PUT", "/api/2.0/mlflow-artifacts/artifacts/.*models/"),
    "list files": ("GET", "/api/2.0/mlflow-artifacts/artifacts$"),
    "create a model": ("POST", f"{API}/logged-models$"),
    "search models": ("POST", f"{API}/logged-models/search"),
    "log outputs": ("POST", f"{API}/runs/outputs"),
    "finalize a model": ("PATCH", f"{API}/logged-models/"),
}
"""The kinds of calls, by method and path."""

PAGE = b"<html>\n<title>Gateway</title>\n<p>user and password, please</p></html>"
STATUSES: dict[str, tuple[int, str, bytes]] = {
    "401": (401, "text/html", b"You are not authenticated."),
    "404": (404, "text/html", PAGE),
    "413": (413, "text/html", PAGE),
    "500": (500, "application/json", b'{"error_code": "INTERNAL_ERROR", "message": "oh\\nno"}'),
    "502 with HTML": (502, "text/html", PAGE),
    "200 with HTML": (200, "text/html", PAGE),
    "200 with nothing": (200, "application/json", b""),
    "redirected to a login": (302, "text/html", PAGE),
}
LINES = ("silent", "stalls in the body", "ends in the body", "reset", "gone", "lost")
"""Faults of the connection. Of a call that is lost, the server has done it: the answer is."""
FAULTS = (*STATUSES, *LINES)
HANGING = ("silent", "stalls in the body")


class Proxy(ThreadingHTTPServer):
    """What stands before the server; it fails as `fault` says in calls of one kind."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, server: int, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Passing)
        self.server = server
        self.fault, self.call = "", ""
        self.hits = 0
        self.over = threading.Event()
        """The fault: those who hang may go."""
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away: that is what is tried here."""


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.server.fault and is_call(self.server.call, self.command, self.path):
            self.server.hits += 1
            self._fail(self.server.fault, body)
        else:
            self._answer(*self._asked(body))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815

    def _asked(self, body: bytes) -> tuple[int, str, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.server)) as to:
            to.request(self.command, self.path, body, dict(self.headers))
            answer = to.getresponse()
            return answer.status, answer.headers["content-type"], answer.read()

    def _answer(self, status: int, kind: str, content: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        if status == 302:
            self.send_header("Location", "/login")
        self.end_headers()
        self.wfile.write(content)

    def _fail(self, fault: str, body: bytes) -> None:
        if fault in STATUSES:
            self._answer(*STATUSES[fault])
            return
        self.close_connection = True
        with suppress(OSError):
            match fault:
                case "silent":
                    self.server.over.wait(60)
                case "stalls in the body":
                    self._answer(200, "application/json", b'{"run', 1000)
                    self.server.over.wait(60)
                case "ends in the body":
                    self._answer(200, "application/json", b'{"run', 1000)
                case "gone":
                    self.server.shutdown()
                    self.server.server_close()
                    self._reset()
                case "lost":
                    self._asked(body)
                    self._reset()
                case "reset":
                    self._reset()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def is_call(kind: str, method: str, path: str) -> bool:
    """Is a request a call of that kind?"""
    wanted, pattern = CALLS[kind]
    return method == wanted and re.match(pattern, path.partition("?")[0]) is not None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """The folder of a server's database and artifacts; its port is in the file `port`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own imports
        from mlflow.server import app, auth, constants, handlers  # noqa: F401
    from mlflow.tracking._tracking_service import utils
    from werkzeug.serving import make_server

    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "unset")
        patch.setenv(constants.BACKEND_STORE_URI_ENV_VAR, f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv(constants.ARTIFACT_ROOT_ENV_VAR, "mlflow-artifacts:/")
        patch.setenv(constants.ARTIFACTS_DESTINATION_ENV_VAR, str(folder / "artifacts"))
        patch.setenv(constants.SERVE_ARTIFACTS_ENV_VAR, "true")
        patch.setattr(handlers, "_tracking_store", None)
        patch.setattr(handlers, "_artifact_repo", None)
        patch.setattr(utils, "_tracking_uri", None)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = make_server("127.0.0.1", 0, app, threaded=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        (folder / "port").write_text(str(server.server_port))
        handlers.initialize_backend_stores()
        yield folder
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxy(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy(int((store / "port").read_text()))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{proxy.server_port}")
    yield proxy
    proxy.over.set()
    proxy.shutdown()
    proxy.server_close()


def repository(folder: Path, experiment: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose runs have that experiment, which this process works in."""
    (folder / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("runrecord.run.run.now", lambda: 5000)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", experiment)
    return folder


@contextmanager
def followed(root: Path, run_id: str, stage: str) -> Iterator[runrecord.Run]:
    """A run, and what shows it in MLflow meanwhile, in this process; it ends well."""
    folder, data = root / ".runrecord" / "runs" / run_id, Dataset("mnist", "digest", "data/mnist")
    about = {"params": {"lr": 0.1}, "tags": {"git.dirty": "false"}, "host": platform.node()}
    run = new_run(folder, id=run_id, stage=stage, dataset=data, **about)
    said = partial(print, file=sys.stderr)
    showing = Showing(MlflowSink, root, folder, 0, said)
    showing.start()
    yield run
    end_run(folder)
    showing.join()


def train_and_evaluate(root: Path) -> None:
    model = root / "model.bin"
    with followed(root, "training", "train") as run:
        for epoch in (1, 2):
            run.log({"Loss": 1.0 / epoch}, epoch)
            run.image("place", np.full((4, 4), epoch, np.uint8), epoch)
        model.write_bytes(b"weights")
        run.model(model, step=2)
    with followed(root, "evaluation", "evaluate") as run:
        run.image("model_samples", np.full((4, 4), 9, np.uint8))
        run.text("words", "all of them")
        run.evaluation("model", model, {"Size": 3.0}, {"Curve": [(1, 0.5), (2, 0.25)]})


def shown(store: Path, experiment: str) -> dict[str, Any]:
    """All that MLflow has of an experiment's runs, as its database and its files say."""
    database = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    return everything_in(database, experiment, store / "artifacts")


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        root = repository(tmp_path_factory.mktemp("whole") / "root", "whole", patch)
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{(store / 'port').read_text()}")
        train_and_evaluate(root)
        found = shown(store, "whole")
        assert {run["status"] for run in found.values()} == {"FINISHED"}
        assert any("Eval/" in metric for metric in found["training"]["points"])
        assert "model.bin" in found["training"]["model"]["files"]
        sync()
        assert shown(store, "whole") == found, "nothing was left for sync to do"
    return found


Said = pytest.CaptureFixture[str]


def warned(said: Said) -> list[str]:
    """What was said on stderr, a line each, less that MLflow is back; no traceback is in it."""
    lines = [line for line in said.readouterr().err.splitlines() if " is back" not in line]
    assert not [line for line in lines if "Traceback" in line or line.startswith(" ")], lines
    return lines


QUICK = (
    ("404", "create a model"),
    ("200 with nothing", "search runs"),
    ("redirected to a login", "upload a file"),
    ("500", "log inputs"),
    ("stalls in the body", "log a batch"),
    ("lost", "create the run"),
    ("gone", "update the run"),
)
SLOW = [
    (FAULTS[number % len(FAULTS)], call)
    for number, call in enumerate(CALLS)
    if (FAULTS[number % len(FAULTS)], call) not in QUICK
]
"""Each fault, and each kind of calls."""
PAIRS = [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)]


@pytest.mark.parametrize(("fault", "call"), PAIRS)
def test_a_fault_costs_a_warning_and_sync_mends_it(
    fault: str,
    call: str,
    store: Path,
    proxy: Proxy,
    undisturbed: Mapping[str, Any],
    tmp_path: Path,
    capsys: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Train, evaluate and sync under a fault, then sync without it."""
    name = f"{fault}, {call}"
    root = repository(tmp_path / "root", name, monkeypatch)
    warned(capsys)
    if fault in HANGING:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy.fault, proxy.call = fault, call
    train_and_evaluate(root)
    lines = warned(capsys)
    assert all(line.startswith("warning: MLflow unavailable: ") for line in lines), lines
    assert all(line.endswith("'runrecord sync' completes MLflow later.") for line in lines), lines
    assert len(lines) <= 2, "one for each run"
    if (fault, call) == ("404", "create a model"):  # as MLflow 2.22 answers
        assert "it is older than MLflow 3; upgrade it: pip install --upgrade" in lines[0]
    if proxy.hits > 2 or fault == "gone":  # of each run, the first failure is not said
        assert lines
    with suppress(UserError, RunFailed):
        sync()
    warned(capsys)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    proxy.over.set()
    proxy.fault = ""
    if fault == "gone":
        Proxy(proxy.server, proxy.server_port)
    sync()
    assert warned(capsys) == []
    assert shown(store, name) == undisturbed


def test_artifacts_that_cannot_be_put_there_cost_nothing_else(
    store: Path,
    proxy: Proxy,
    undisturbed: Mapping[str, Any],
    tmp_path: Path,
    capsys: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = repository(tmp_path / "root", "no files", monkeypatch)
    proxy.fault, proxy.call = "413", "upload a file"
    train_and_evaluate(root)
    lines = warned(capsys)
    assert len(lines) == 2, "one for each run"
    assert all("some pictures, models or files are not there (" in line for line in lines)
    for name, run in shown(store, "no files").items():
        for what in ("status", "times", "params", "points", "data sets"):
            assert run[what] == undisturbed[name][what], (name, what)
    with pytest.raises(RunFailed, match="2 of the records failed"):
        sync()
    said = capsys.readouterr().out
    assert said.count("MLflow shows it, but not all its pictures, models and files (") == 2
    proxy.fault = ""
    sync()
    assert "2 completed" in capsys.readouterr().out
    assert shown(store, "no files") == undisturbed
