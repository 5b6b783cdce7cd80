"""`runrecord exec -- COMMAND`: any program as a run, without a line of it changed."""

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import IO

from runrecord.errors import UserError
from runrecord.run.process import GRACE, end_program, stop_with_parent
from runrecord.run.start import start_run
from runrecord.safety.secrets import redact

_KEPT = 2**18  # bytes of the beginning of the output, and of its end


class ProgramFailed(Exception):
    """The program ended with another status than 0."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


class _Output:
    """What a program prints: passed on as it comes, its beginning and its end kept."""

    def __init__(self) -> None:
        self._first = bytearray()
        self._last: deque[bytes] = deque()
        self._size = self._left_out = 0
        self._lock = threading.Lock()

    def follow(self, source: IO[bytes], target: IO[bytes]) -> threading.Thread:
        thread = threading.Thread(target=self._copy, args=(source, target))
        thread.start()
        return thread

    def kept(self) -> bytes:
        left_out = f"\n[{self._left_out} bytes left out]\n" if self._left_out else ""
        whole = bytes(self._first) + left_out.encode() + b"".join(self._last)
        return redact(whole.decode(errors="replace")).encode()

    def _copy(self, source: IO[bytes], target: IO[bytes]) -> None:
        for line in iter(source.readline, b""):
            target.write(line)
            target.flush()
            with self._lock:
                self._keep(line)

    def _keep(self, line: bytes) -> None:
        if len(self._first) + len(line) <= _KEPT and not self._last:
            self._first += line
            return
        self._last.append(line[-_KEPT:])
        self._size += len(self._last[-1])
        self._left_out += len(line) - len(self._last[-1])
        while self._size > _KEPT:
            gone = len(self._last.popleft())
            self._size, self._left_out = self._size - gone, self._left_out + gone


def execute(command: Sequence[str]) -> int:
    """Run a program as the run of the DVC stage that this is; its exit status.

    Raises:
        UserError: there is no such program, or this is no stage.
    """
    if command[:1] == ["--"]:
        command = command[1:]
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
            preexec_fn=stop_with_parent,
        )
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}") from None
    assert process.stdout is not None
    assert process.stderr is not None
    threads = []
    try:  # a signal may come at once
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            threads.append(output.follow(source, target.buffer))
        process.wait()
    finally:
        end_program(process, process.send_signal)
        for thread in threads:
            thread.join(GRACE)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode
