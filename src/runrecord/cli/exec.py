"""`runrecord exec -- COMMAND`: any program as a run, without a line of it changed."""

import os
import re
import selectors
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from runrecord.errors import UserError
from runrecord.run.process import GRACE, end_program, stop_with_parent
from runrecord.run.start import start_run
from runrecord.safety.secrets import redact

_KEPT = 2**18  # bytes of the beginning of the output, and of its end
_AT_ONCE = 2**16  # bytes that are read at once
_LARGEST_PIPE = 2**20  # bytes that one may hold
_LOOK = 0.05  # seconds between two looks at whether the program has ended


class ProgramFailed(Exception):
    """The program ended with another status than 0."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


class _Output:
    """What a program prints: passed on as it comes; its beginning and its end are kept."""

    def __init__(self) -> None:
        self._first, self._last = bytearray(), bytearray()
        self._left_out = 0

    def follow(self, process: "subprocess.Popen[bytes]") -> None:
        """Pass on what comes from a program until it has ended, or closed its output.

        Then what is in its pipes is its last; whatever still holds them open is not waited for.
        """
        targets = {process.stdout: sys.stdout, process.stderr: sys.stderr}
        with selectors.DefaultSelector() as selector:
            for pipe in filter(None, targets):
                selector.register(pipe, selectors.EVENT_READ, targets[pipe])
            while selector.get_map() and process.poll() is None:
                for key, _ in selector.select(_LOOK):
                    if not self._pass_on(os.read(key.fd, _AT_ONCE), key.data):
                        selector.unregister(key.fileobj)
            for key in selector.get_map().values():
                os.set_blocking(key.fd, False)
                with suppress(BlockingIOError):
                    self._pass_on(os.read(key.fd, _LARGEST_PIPE), key.data)

    def kept(self) -> bytes:
        """The beginning and the end, without secrets; whole lines, so that none is cut in two."""
        first, last = bytes(self._first), bytes(self._last)
        if not self._left_out:
            return redact((first + last).decode(errors="replace")).encode()
        first = first[: max(first.rfind(b"\n"), first.rfind(b"\r")) + 1] or first
        last = re.sub(rb"\A[^\r\n]*[\r\n]", b"", last)
        left_out = self._left_out + len(self._first) + len(self._last) - len(first) - len(last)
        whole = first + f"\n[{left_out} bytes left out]\n".encode() + last
        return redact(whole.decode(errors="replace")).encode()

    def _pass_on(self, chunk: bytes, target: TextIO) -> bytes:
        room = _KEPT - len(self._first)
        self._first += chunk[:room]
        self._last += chunk[room:]
        surplus = max(0, len(self._last) - _KEPT)
        del self._last[:surplus]
        self._left_out += surplus
        with suppress(OSError, AttributeError):  # nobody reads it, or it is None: closed
            target.buffer.write(chunk)
            target.buffer.flush()
        return chunk


def execute(program: Sequence[str]) -> int:
    """Run a program as the run of the DVC stage that this is; its exit status.

    Raises:
        UserError: there is no such program, or this is no stage.
    """
    command = program[1:] if program[:1] == ["--"] else program
    if not command:
        raise UserError("runrecord exec: no command is given; write 'runrecord exec -- COMMAND'")
    try:
        with start_run() as run:
            output = _Output()
            try:
                status = _run(command, output)
            finally:
                run.output = output.kept()
            if status:
                raise ProgramFailed(status)
    except ProgramFailed as error:
        return error.status
    return 0


def _run(command: Sequence[str], output: _Output) -> int:
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONUNBUFFERED": "1", **os.environ},  # what Python prints is seen at once
            preexec_fn=stop_with_parent,
        )
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}") from None
    reader = threading.Thread(target=output.follow, args=[process], daemon=True)
    try:  # a signal may come at once
        reader.start()
        process.wait()
        reader.join()
    finally:
        end_program(process, process.send_signal)
        if reader.ident is not None:
            reader.join(GRACE)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode
