"""What a person opens: the page of `runrecord report`, and `runrecord mlflow` and `tensorboard`."""

import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path

from runrecord.cli.console import note, refusing, tell
from runrecord.cli.runs import find_records
from runrecord.errors import UserError, require
from runrecord.files import remove_unfinished, write_atomic
from runrecord.project import Project, load_project, repo_root
from runrecord.record.events import START, RecordRefused, RunStarted, read_start
from runrecord.record.reader import Record, RunView, view
from runrecord.report.page import all_metrics, render
from runrecord.report.seed_spread import apart_from_seed
from runrecord.safety.secrets import redact
from runrecord.safety.text import say, shown
from runrecord.store.catalog import RecordedRun, all_runs, newest_of_each, sealed_records
from runrecord.trackers.mlflow.store import artifact_location, is_database, tracking_uri
from runrecord.trackers.player import Store
from runrecord.trackers.tensorboard import event_folder

HOST = "127.0.0.1"


def report(names: Sequence[str], output: Path, markdown: bool = False) -> None:
    """Write a page about the named runs, or print what it begins with as Markdown.

    Without a name, it is about the workspace's: those that made or evaluated a model, if any did.

    Raises:
        UserError: there is no such run, or its record is damaged.
        OSError: the page cannot be written.
    """
    root = repo_root()
    wanted = names or map(str, sealed_records(root))
    found = [record for name in wanted for record in find_records(root, name)]
    if not names:
        found.sort(key=lambda record: record.start.time)
    if not found:
        raise UserError("records/: holds no record yet; run 'dvc repro', or name runs.")
    shown = [*{record.start.id: _read(record) for record in found}.values()]
    if not names:
        shown = [run for run in shown if run.models or run.evaluated] or shown
    project = load_project(root)
    there = newest_of_each(all_runs(root, _ignore), _ignore)
    evaluations = [one for run in shown if run.model for one in _newest(there, run.model)]
    replicas = [*_replicas(there, shown, project)]
    page = render(shown, [*evaluations, *shown], project, replicas, output.parent, markdown)
    note(page=page if markdown else str(output), runs=[run.start.id for run in shown])
    if markdown:
        print(page, end="")
        return
    remove_unfinished(output.parent, f".{escape(output.name)}.*")
    write_atomic(output, page.encode())
    tell(f"{output}: {f'{len(shown)} runs side by side' if len(shown) > 1 else shown[0].start.id}")


def _ignore(_label: str, _error: Exception) -> None:
    """Another run's record: the page does without."""


def _newest(there: Sequence[RecordedRun], model: str) -> Iterator[RunView]:
    """The newest evaluation of a model whose record can be read, if there is one."""
    for run in reversed(there):
        if model in (run.summary.evaluated or {}):
            with suppress(RecordRefused):
                yield view(run.record())
                return


def _replicas(
    there: Sequence[RecordedRun], shown: Sequence[RunView], project: Project
) -> Iterator[tuple[RunStarted, Mapping[str, float]]]:
    """The finished runs that differ from one of those shown by their seed alone; their metrics.

    A model's metrics are what its newest evaluation says.
    """
    groups = {apart_from_seed(run.start, project) for run in shown}
    stages = {run.start.stage for run in shown}
    tested: dict[str, Mapping[str, float]] = {}
    for run in there:
        tested |= run.summary.evaluated or {}
    for run in there:
        summary = run.summary
        if summary.stage in stages and summary.status == "FINISHED" and summary.metrics is not None:
            with suppress(OSError, ValueError):
                start = read_start(run.files()[START].read_bytes())
                if apart_from_seed(start, project) in groups:
                    yield start, all_metrics(summary.metrics, tested.get(summary.model or "", {}))


def _read(record: Record) -> RunView:
    with refusing(record.start.id):
        seen = view(record)
    if record.damaged:
        say(f"{record.start.id}: without its damaged files: {record.damage()}")
    return seen


def serve(viewer: str, host: str, port: int) -> None:
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
