"""The command line: `runrecord COMMAND`."""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any

from runrecord.project import RUN_NAMES


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    from runrecord.git.commands import unsteered_process
    from runrecord.run.process import UNTOLD, exit_status, release_console, set_up_process

    set_up_process()
    arguments = vars(parser().parse_args())
    function, as_json = arguments.pop("function"), arguments.pop("as_json", False)
    if function == "sweep.sweep":
        arguments = {"given": argparse.Namespace(**arguments)}
    if not function.startswith("exec."):  # a person's program has the variables it had
        os.environ.update({**UNTOLD, **os.environ})
    with unsteered_process():
        status = exit_status(partial(_printed, function, arguments, as_json))
    release_console()
    sys.exit(status)


def _printed(function: str, arguments: dict[str, Any], as_json: bool) -> int | None:
    """Run a command until all of what it prints is out: that is what it is for."""
    module, _, name = function.partition(".")
    with import_module("runrecord.cli.console").json_document() if as_json else nullcontext():
        status: int | None = getattr(import_module(f"runrecord.cli.{module}"), name)(**arguments)
    if sys.stdout is not None:  # else it was closed before this process began
        sys.stdout.flush()
    return status


def parser() -> argparse.ArgumentParser:
    """A command has a name, its function (MODULE.NAME, imported when called) and help.

    Its arguments are the function's own, by name. What prints lines of its own takes `--json`.
    """
    program = argparse.ArgumentParser(prog="runrecord", description=__doc__)
    commands = program.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, function: str, told: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=told)
        added.set_defaults(function=function)
        return added

    def flag(added: argparse.ArgumentParser, name: str, parameter: str, told: str) -> None:
        added.add_argument(name, dest=parameter, action="store_true", help=told)

    command("runs", "runs.list_runs", "list the runs that left a record here")
    show = command("show", "runs.show", "tell all of one run")
    show.add_argument("name", metavar="run", help=RUN_NAMES)
    which = command("which", "runs.which", "which run made a model, plot or metrics file?")
    which.add_argument("file", type=Path)
    sync = command("sync", "upkeep.sync", "make MLflow hold every run that left a record")
    flag(sync, "--all", "everything", "those of every commit and DVC experiment too")
    flag(sync, "--tensorboard", "tensorboard", "write their TensorBoard files anew as well")
    flag(sync, "--check", "check", "look for each picture, model and file in MLflow")
    only = f"only that, also if deleted there: {RUN_NAMES}"
    sync.add_argument("name", metavar="run", nargs="?", default="", help=only)
    dead = command("reap", "upkeep.reap", "close as KILLED the runs here whose process is gone")
    gone = "one that you know to be gone, by id"
    dead.add_argument("names", metavar="run", nargs="*", help=gone)
    dead.add_argument("--host", help="a host that you know to be gone with all of its runs")
    gc = command("gc", "upkeep.gc", "remove runs here that DVC's cache can give back")
    newest = "all but the newest N of each stage"
    gc.add_argument("--keep", type=_count, metavar="N", required=True, help=newest)
    flag(gc, "--yes", "yes", "do it; without it, only tell")
    command("doctor", "upkeep.doctor", "is everything as it should be, and if not, what to do?")
    compare = command("compare", "verify.show_comparison", "why do two runs differ?")
    compare.add_argument("first", help=RUN_NAMES)
    compare.add_argument("second", help=RUN_NAMES)
    verify = command("verify", "verify.verify", "rebuild a run, and prove it equal bit for bit")
    verify.add_argument("name", metavar="run", help=f"{RUN_NAMES}; REVISION alone for all of them")
    flag(verify, "--env", "own_packages", "rebuild its virtual environment from its lock file, too")
    flag(verify, "--yes", "trusted", "run a change that was made elsewhere without asking")
    statement = "write the verdict there, as an in-toto Statement that other tools sign"
    verify.add_argument("--attest", type=Path, metavar="FILE", help=statement)
    up_to = "the relative difference of metrics up to which they are equal, default 0.01"
    for one in (compare, verify):
        one.add_argument("--tolerance", type=_tolerance, default=0.01, help=up_to)
    execute = command("exec", "exec.execute", "any program as a run of its DVC stage")
    execute.add_argument("program", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    _add_sweep(command("sweep", "sweep.sweep", "search params: many runs, on many machines"))
    report = command("report", "pages.report", "one page about runs, side by side")
    named = f"{RUN_NAMES}; without any, the workspace's"
    report.add_argument("names", metavar="run", nargs="*", help=named)
    page = Path("report.html")
    flag(report, "--markdown", "markdown", "print what the page begins with, as GitHub takes it")
    report.add_argument("--output", type=Path, default=page, help=f"default {page}")
    for name, port in (("mlflow", 5000), ("tensorboard", 6006)):
        viewer = command(name, "pages.serve", f"show the runs in {name}")
        viewer.set_defaults(viewer=name)
        first = f"default {port}, or the next free one"
        viewer.add_argument("--port", type=_port, default=port, help=first)
        viewer.add_argument("--host", default="127.0.0.1", help="default: for this machine only")
    for name in commands.choices.keys() - {"exec", "mlflow", "tensorboard"}:
        flag(commands.choices[name], "--json", "as_json", "print one JSON document")
    return program


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    values = "a list (vae.latent_dim=2,10,50) or a range (vae.lr=0.0003..0.003:log)"
    add("space", nargs="+", metavar="PARAM=VALUES", help=values)
    add("--metric", metavar="FILE:NAME", default="", help="what the trials are judged by")
    add("--trials", type=_count, help="how many in all; default all of a grid, else 20")
    add("--search", choices=("grid", "random", "tpe"), help="default grid of lists, tpe of ranges")
    add("--better", choices=("higher", "lower"), help="which way the metric is")
    add("--prune", action="store_true", help="end trials that are worse than others, by epoch")
    add("--jobs", type=_count, help="trials at once; default 1, on a cluster all")
    add("--cpus", type=_share, default=1, help="of Ray's, a trial; default 1")
    add("--gpus", type=_share, default=0, help="a trial; 0.25 is a quarter of one")
    add("--name", metavar="STUDY", help="default made of the stage and the rest")


def _number(
    kind: type[int] | type[float], low: float, below: float, wanted: str
) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = -1
        if not low <= number < below or "_" in text:
            raise argparse.ArgumentTypeError(f"it is '{text}'; {wanted}")
        return number

    return read


_count = _number(int, 1, inf, "a count is a whole number, 1 or more")
_share = _number(float, 0, 1_000_000, "a share is a number, 0 or more")
_port = _number(int, 1, 65536, "a port is a number from 1 to 65535")
_tolerance = _number(float, 0, 1, "a tolerance is 0 or more, and below 1")
