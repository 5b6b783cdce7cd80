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
    arguments = parser.parse_args()
    match arguments.command:
        case "check":
            from generative.commands.check import check

            sys.exit(exit_status(check))
        case name:
            from generative.commands.viewers import view

            sys.exit(exit_status(lambda: view(name, arguments.port)))
