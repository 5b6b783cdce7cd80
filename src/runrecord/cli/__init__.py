"""The command line: `runrecord COMMAND`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from runrecord.store.paths import RUN_NAMES


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    from runrecord.provenance.git import unsteered_process
    from runrecord.run.process import exit_status, release_console, set_up_process

    set_up_process()
    with unsteered_process():
        status = exit_status(_command(_parser().parse_args()))
    release_console()
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="runrecord", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("runs", help="list the runs that left a record here")
    show = commands.add_parser("show", help="tell all of one run")
    show.add_argument("run", help=RUN_NAMES)
    which = commands.add_parser("which", help="which run made a model, plot or metrics file?")
    which.add_argument("file", type=Path)
    sync = commands.add_parser("sync", help="make MLflow hold every run that left a record")
    sync.add_argument(
        "--all", action="store_true", help="those of every commit and DVC experiment too"
    )
    sync.add_argument(
        "--tensorboard", action="store_true", help="write their TensorBoard files anew as well"
    )
    sync.add_argument(
        "--check", action="store_true", help="look for each picture, model and file in MLflow"
    )
    sync.add_argument(
        "run", nargs="?", default="", help=f"only that, also if deleted there: {RUN_NAMES}"
    )
    dead = commands.add_parser("reap", help="close as KILLED the runs here whose process is gone")
    dead.add_argument("runs", nargs="*", metavar="run", help="one that you know to be gone, by id")
    dead.add_argument("--host", help="a host that you know to be gone with all of its runs")
    collect = commands.add_parser("gc", help="remove runs here that DVC's cache can give back")
    kept = collect.add_mutually_exclusive_group(required=True)
    kept.add_argument("--keep", type=_count, metavar="N", help="all but the newest N of each stage")
    kept.add_argument("--keep-days", type=_count, metavar="D", help="all but those of D days")
    collect.add_argument("--yes", action="store_true", help="do it; without it, only tell")
    commands.add_parser("doctor", help="is everything as it should be, and if not, what to do?")
    compare = commands.add_parser("compare", help="why do two runs differ?")
    for name in ("first", "second"):
        compare.add_argument(name, help=RUN_NAMES)
    compare.add_argument("--json", action="store_true", help="print it as JSON")
    verify = commands.add_parser("verify", help="rebuild a run, and prove it equal bit for bit")
    verify.add_argument("run", help=f"{RUN_NAMES}; REVISION alone for all of them")
    verify.add_argument(
        "--env", action="store_true", help="rebuild its virtual environment too, from its lock file"
    )
    verify.add_argument(
        "--yes", action="store_true", help="run a change that was made elsewhere without asking"
    )
    for command in (compare, verify):
        command.add_argument(
            "--tolerance",
            type=_tolerance,
            default=0.01,
            help="the relative difference of metrics up to which they are equal, default 0.01",
        )
    execute = commands.add_parser("exec", help="any program as a run of its DVC stage")
    execute.add_argument("program", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    _add_sweep(commands.add_parser("sweep", help="search params: many runs, on many machines"))
    report = commands.add_parser("report", help="one page about runs, side by side")
    report.add_argument(
        "runs", nargs="*", metavar="run", help=f"{RUN_NAMES}; without any, the workspace's"
    )
    report.add_argument(
        "--output", type=Path, default=Path("report.html"), help="default report.html"
    )
    for name, port in (("mlflow", 5000), ("tensorboard", 6006)):
        command = commands.add_parser(name, help=f"show the runs in {name}")
        command.add_argument(
            "--port", type=_port, default=port, help=f"default {port}, or the next free one"
        )
        command.add_argument("--host", default="127.0.0.1", help="default: for this machine only")
    return parser


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "space",
        nargs="*",
        metavar="PARAM=VALUES",
        help="a list (vae.latent_dim=2,10,50) or a range (vae.lr=0.0003..0.003:log); "
        "none, with --name: a study that there is",
    )
    parser.add_argument("--metric", metavar="FILE:NAME", help="what the trials are judged by")
    parser.add_argument(
        "--trials", type=_count, help="how many in all; default all of a grid, else 20"
    )
    parser.add_argument(
        "--search", choices=("grid", "random", "tpe"), help="default grid of lists, tpe of ranges"
    )
    parser.add_argument("--better", choices=("higher", "lower"), help="which way the metric is")
    parser.add_argument(
        "--prune", action="store_true", help="end trials that are worse than others, by epoch"
    )
    parser.add_argument("--jobs", type=_count, help="trials at once; default 1, on a cluster all")
    parser.add_argument("--cpus", type=_share, default=1, help="of Ray's, a trial; default 1")
    parser.add_argument("--gpus", type=_share, default=0, help="a trial; 0.25 is a quarter of one")
    parser.add_argument("--name", metavar="STUDY", help="default made of the stage and the rest")


def _command(given: argparse.Namespace) -> Callable[[], int | None]:
    """What to run; its module is imported now, and no other's."""
    match given.command:
        case "runs":
            from runrecord.cli.runs import list_runs

            return list_runs
        case "show":
            from runrecord.cli.show import show

            return lambda: show(given.run)
        case "which":
            from runrecord.cli.which import which

            return lambda: which(given.file)
        case "sync":
            from runrecord.cli.sync import sync

            return lambda: sync(given.all, given.tensorboard, given.check, given.run)
        case "reap":
            from runrecord.cli.reap import reap

            return lambda: reap(given.runs, given.host)
        case "gc":
            from runrecord.cli.gc import gc

            return lambda: gc(given.keep, given.keep_days, given.yes)
        case "doctor":
            from runrecord.cli.doctor import doctor

            return doctor
        case "compare":
            from runrecord.cli.compare import show_comparison

            return lambda: show_comparison(given.first, given.second, given.tolerance, given.json)
        case "verify":
            from runrecord.cli.verify import verify

            return lambda: verify(given.run, given.tolerance, given.env, given.yes)
        case "exec":
            from runrecord.cli.exec import execute

            return lambda: execute(given.program)
        case "sweep":
            from runrecord.cli.sweep import sweep

            return lambda: sweep(given)
        case "report":
            from runrecord.cli.report import report

            return lambda: report(given.runs, given.output)
        case viewer:
            from runrecord.cli.viewers import view

            return lambda: view(viewer, given.host, given.port)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) not in range(1, 65536):
        raise argparse.ArgumentTypeError(f"it is '{text}'; a port is a number from 1 to 65535")
    return int(text)


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share < 1_000_000:
        raise ValueError
    return share


def _tolerance(text: str) -> float:
    tolerance = float(text)
    if not 0 <= tolerance < 1:
        raise argparse.ArgumentTypeError(f"it is {text}; a tolerance is 0 or more, and below 1")
    return tolerance


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count
