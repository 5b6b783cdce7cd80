"""`dvc` and `runrecord` by fork from a process that has imported what they need: the same, sooner.

Each worker of the tests has one such process for each program, and runs nothing else in it. What a
child is given is its own: folder, variables, streams, name, and random numbers.
"""

import atexit
import gc
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

IMPORTED = {
    "dvc": (
        *("dvc.cli.parser", "dvc.repo", "dvc.repo.reproduce", "dvc.repo.experiments.queue.base"),
        *("dvc.stage.run", "dvc.scm", "dvc_data.index", "scmrepo.git", "pygtrie", "networkx"),
    ),
    "runrecord": (
        *("mlflow.tracking.client", "mlflow.store.tracking.sqlalchemy_store", "tensorboardX"),
        *("dvc.repo", "dvc.stage.run", "dvc_data.index", "runrecord.cli.upkeep"),
        *("runrecord.cli.verify", "runrecord.cli.pages", "runrecord.run.process"),
    ),
}
_LONGEST = 2**18  # bytes of a request


class Unlike(Exception):
    """What is wanted takes a process of its own."""


def run(
    command: tuple[str, ...], folder: Path, environment: Mapping[str, str], patience: float
) -> tuple[int, str]:
    """Run a program to its end: its exit status, as `Popen` has it, and all that it printed.

    Raises:
        Unlike: it would not be the same as a process of its own.
    """
    found = shutil.which(command[0], path=environment.get("PATH"))
    if (
        command[0] not in IMPORTED
        or found != str(Path(sys.executable).with_name(command[0]))
        or _interpreter(environment) != _interpreter(os.environ)
    ):
        raise Unlike
    channel = _warm(command[0], os.getpid())
    request = json.dumps([command, str(folder), dict(environment)]).encode()
    output, written = os.pipe()
    status, told = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    socket.send_fds(channel, [request], [nothing, written, told])
    for one in (nothing, written, told):
        os.close(one)
    with open(status) as end, open(output, errors="replace") as printed:
        process = int(end.readline())
        timer = threading.Timer(patience, os.kill, (process, signal.SIGKILL))
        timer.start()
        try:
            text = printed.read()
            return int(end.readline()), text
        finally:
            timer.cancel()


def _interpreter(environment: Mapping[str, str]) -> dict[str, str]:
    """What Python itself reads when it starts."""
    names = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_")
    return {name: text for name, text in environment.items() if name.startswith(names)}


@cache
def _warm(name: str, _process: int) -> socket.socket:
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    subprocess.run(
        # By its third word the engine takes it for `dvc`.
        [sys.executable, __file__, name, str(other.fileno())],
        pass_fds=[other.fileno()],
        stdin=subprocess.DEVNULL,
        check=True,
    )
    other.close()
    atexit.register(own.close)  # which ends it
    return own


def _serve(channel: socket.socket) -> list[Any]:
    """Fork a child for each request, and say how it ended; only children return, with theirs."""
    waiting: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not channel:
                    process, told = waiting.pop(key.fd)
                    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                    with suppress(BrokenPipeError):
                        os.write(told, f"{status}\n".encode())
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    os.close(told)
                    continue
                request, descriptors, _, _ = socket.recv_fds(channel, _LONGEST, 3)
                if not request:
                    sys.exit()  # nobody asks any more
                nothing, written, told = descriptors
                process = os.fork()
                if process == 0:
                    for source, target in ((nothing, 0), (written, 1), (written, 2)):
                        os.dup2(source, target)
                    return list(json.loads(request))
                os.write(told, f"{process}\n".encode())
                os.close(nothing)
                os.close(written)
                watched = os.pidfd_open(process)
                waiting[watched] = process, told
                selector.register(watched, selectors.EVENT_READ)


def main() -> None:
    """Import, serve; and in each child be the program that was asked for."""
    if os.fork():
        os._exit(0)  # it is nobody's child: some tests wait for all that they have
    name, channel = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    for module in IMPORTED[name]:
        import_module(module)
    assert threading.active_count() == 1, threading.enumerate()
    tempfile.tempdir = None
    gc.freeze()
    (_, *arguments), folder, environment = _serve(channel)
    os.closerange(3, 256)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    script = Path(sys.executable).with_name(name)
    sys.argv, sys.path[0] = [str(script), *arguments], str(script.parent)
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        assert stream.fileno() == number
        stream.reconfigure(line_buffering=number == 2)  # type: ignore[union-attr]
    (program,) = entry_points(group="console_scripts", name=name)
    sys.exit(program.load()())


if __name__ == "__main__":
    main()
