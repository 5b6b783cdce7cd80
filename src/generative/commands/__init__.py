"""The command line: `generative COMMAND`."""

import argparse
import sys


def _port(text: str) -> int:
    port = int(text)
    if port not in range(1, 65436):
        raise ValueError
    return port


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    from generative.stage import exit_status

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
        differ.add_argument(
            name, help="a run's name or MLflow id, a record's folder, or REVISION:ae"
        )
    differ.add_argument(
        "--tolerance", type=float, default=1e-3, help="relative, default 0.001: equal up to that"
    )
    differ.add_argument("--json", action="store_true", help="print it as JSON")
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
        case name:
            from generative.commands.viewers import view

            sys.exit(exit_status(lambda: view(name, arguments.port)))
