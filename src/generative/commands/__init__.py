"""The command line: `generative COMMAND`."""

import argparse
import sys
from pathlib import Path


def _port(text: str) -> int:
    port = int(text)
    if port not in range(1, 65436):
        raise ValueError
    return port


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    from generative.names import WAYS
    from generative.stage import exit_status, set_up_process

    set_up_process()
    parser = argparse.ArgumentParser(prog="generative", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="check params.yaml, every block of it, before any work")
    for name, port in (("mlflow", 5000), ("tensorboard", 6006)):
        command = commands.add_parser(name, help=f"show the runs in {name}, on this machine only")
        command.add_argument(
            "--port", type=_port, default=port, help=f"default {port}, or the next free one"
        )
    play = commands.add_parser("sync", help="make MLflow hold every run that left a record")
    play.add_argument(
        "--all", action="store_true", help="those of every commit and DVC experiment too"
    )
    play.add_argument(
        "--tensorboard", action="store_true", help="write their TensorBoard files anew as well"
    )
    commands.add_parser("reap", help="close as KILLED the runs here whose process is gone")
    commands.add_parser("doctor", help="is everything as it should be, and if not, what to do?")
    differ = commands.add_parser("compare", help="why do two runs differ?")
    for name in ("first", "second"):
        differ.add_argument(name, help=WAYS)
    differ.add_argument("--json", action="store_true", help="print it as JSON")
    prove = commands.add_parser("verify", help="rebuild a run, and prove it equal bit for bit")
    prove.add_argument("run", help=f"{WAYS}; REVISION alone for all of them")
    prove.add_argument(
        "--env", action="store_true", help="rebuild its virtual environment too, from its lock file"
    )
    prove.add_argument(
        "--yes", action="store_true", help="run a change that was made elsewhere without asking"
    )
    side_by_side = commands.add_parser("report", help="one page about runs, side by side")
    side_by_side.add_argument(
        "runs", nargs="*", metavar="run", help=f"{WAYS}; without any, the workspace's"
    )
    side_by_side.add_argument(
        "--output", type=Path, default=Path("report.html"), help="default report.html"
    )
    for command in (differ, prove):
        command.add_argument(
            "--tolerance",
            type=float,
            default=0.01,
            help="the relative difference of figures up to which they are equal, default 0.01",
        )
    arguments = parser.parse_args()
    match arguments.command:
        case "check":
            from generative.commands.check import check

            sys.exit(exit_status(check))
        case "sync":
            from generative.commands.sync import sync

            sys.exit(exit_status(lambda: sync(arguments.all, arguments.tensorboard)))
        case "reap":
            from generative.commands.sync import reap

            sys.exit(exit_status(reap))
        case "doctor":
            from generative.commands.doctor import doctor

            sys.exit(exit_status(doctor))
        case "compare":
            from generative.commands.compare import show_comparison

            names = arguments.first, arguments.second
            tolerance, as_json = arguments.tolerance, arguments.json
            sys.exit(exit_status(lambda: show_comparison(*names, tolerance, as_json)))
        case "verify":
            from generative.commands.verify import verify

            run, tolerance = arguments.run, arguments.tolerance
            own, yes = arguments.env, arguments.yes
            sys.exit(exit_status(lambda: verify(run, tolerance, own, yes)))
        case "report":
            from generative.commands.report import report

            sys.exit(exit_status(lambda: report(arguments.runs, arguments.output)))
        case name:
            from generative.commands.viewers import view

            sys.exit(exit_status(lambda: view(name, arguments.port)))
