"""Running a stage: how it starts, and how it ends for the shell that started it."""

import ctypes
import errno
import io
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from runrecord.errors import RunFailed, UserError
from runrecord.provenance.git import forget_steering
from runrecord.safety.text import reason, shown

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

GRACE = 10.0  # seconds that a program has which is told to end
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory")


class Terminated(SystemExit):
    """A signal asked this process to end, or the `dvc` that started it is gone."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)  # what the shell expects of a process that it ended


_is_stage = False
"""Is this process a stage of `run_stage`, which ends it?"""


Kinds = tuple[type[Exception], ...]


def run_stage(main: Callable[[], None], mistakes: Kinds = (), failures: Kinds = ()) -> NoReturn:
    """Run a stage's `main` and exit: 0 done, 2 bad input, 1 failed, 128 + the signal if stopped.

    Args:
        main: the stage.
        mistakes: errors of its own that mean bad input, besides UserError.
        failures: errors of its own that mean that its work failed, besides RunFailed.
    """
    global _is_stage
    _is_stage = True
    set_up_process()
    raise_on_signals()
    status = exit_status(main, mistakes, failures)
    with suppress(AttributeError, OSError, ValueError):  # of what a script has put in their place
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)  # threads of trackers that are not waited for must not hold up the end


def set_up_process(*, lossless: bool = False) -> None:
    """Outlive the console, not the `dvc` that started this, and nothing by what steers its Git.

    Args:
        lossless: what this prints is all that it is for: a disk that is full then ends it.
    """
    if "DVC_STAGE" in os.environ:  # a stage started by hand may outlive its shell
        stop_with_parent()
    forget_steering()
    sys.stdout = _lasting(sys.stdout, 1, lossless)
    sys.stderr = _lasting(sys.stderr, 2, lossless)


class _LastingFile(io.FileIO):
    """A console. Once it is gone (its reader has ended, its terminal was closed), nobody's.

    What a full disk does not take is lost; what comes when there is room again is not.
    """

    def __init__(self, number: int, lossless: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self._lossless = lossless

    def write(self, data: "ReadableBuffer") -> int:
        try:
            while (written := super().write(data)) is None:  # nobody has read what came before
                select.select([], [self], [])
        except OSError as error:
            if error.errno not in _FULL:
                _give_up(self.fileno())
            elif self._lossless:
                raise OSError(error.errno, os.strerror(error.errno), "the output") from None
            return memoryview(data).nbytes
        return written


def _give_up(number: int) -> None:
    """Let what goes to a console go nowhere: that of programs that this one starts, too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def _lasting(stream: TextIO | None, number: int, lossless: bool) -> TextIO:
    """The same console, on which work does not depend: neither on its end nor on its encoding."""
    if stream is None or getattr(stream, "closed", False):  # before this process began, or by it
        try:
            os.fstat(number)
        except OSError:
            _give_up(number)  # else the next file that is opened would be what is printed to
        return open(os.devnull, "w")
    try:
        number = stream.fileno()
    except (AttributeError, OSError, ValueError):  # it is no file
        return stream
    try:
        stream.flush()
    except OSError:
        _give_up(number)
    file = io.BufferedWriter(_LastingFile(number, lossless))
    encoding = stream.encoding or "utf-8"
    return io.TextIOWrapper(file, encoding, "replace", line_buffering=True, write_through=True)


def exit_status(main: Callable[[], int | None], mistakes: Kinds = (), failures: Kinds = ()) -> int:
    """Run `main` for its status, or 0; a user's mistake becomes one sentence, not a traceback."""
    mistakes, failures = (UserError, *mistakes), (RunFailed, *failures)
    try:
        return main() or 0
    except mistakes as error:
        stop = "" if str(error).endswith((".", "?")) else "."
        print(f"error: {shown(str(error))}{stop}", file=sys.stderr)
        return 2
    except failures as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:  # PyTorch has no common class for these
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        print(
            f"error: out of memory ({reason(error)}); try smaller sizes in params.yaml.",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {shown(f'{error.filename}: {error.strerror}')}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Terminated as stop:
        print("terminated", file=sys.stderr)
        return int(str(stop.code))


def raise_on_signals(*, instead: bool = False) -> None:
    """SIGTERM, and SIGHUP unless `nohup` has it ignored, end the run as Ctrl-C does.

    Args:
        instead: of what a library made them do, too.
    """
    for signum in (signal.SIGTERM, signal.SIGHUP):
        now = signal.getsignal(signum)
        if now == signal.SIG_DFL or (instead and now != signal.SIG_IGN):
            signal.signal(signum, _on_signal)


@contextmanager
def own_signals() -> Iterator[None]:
    """Let signals end a run, and be handled as before after it; in a stage, nothing comes after."""
    if _is_stage:
        yield
        return
    set_up_process()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    raise_on_signals()
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            if handler is not None:  # else it is not Python's: nobody here replaced it
                signal.signal(number, handler)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Let a person's mistake end a script with one sentence; a stage says it itself."""
    try:
        yield
    except (UserError, RunFailed) as error:
        if _is_stage:
            raise
        print(f"error: {shown(str(error))}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UserError) else 1) from None
    except KeyboardInterrupt:
        if _is_stage:
            raise
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def end_waiting_on_signals(stop: Callable[[], None]) -> None:
    """From here on the work is done and kept: a signal to end calls `stop`, and raises nothing."""
    if threading.current_thread() is not threading.main_thread():
        return
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) not in (signal.SIG_IGN, None):
            signal.signal(signum, lambda _signum, _frame: stop())


def _on_signal(signum: int, _frame: FrameType | None) -> None:
    signal.signal(signum, lambda _signum, _frame: None)  # once is enough
    raise Terminated(signum)


def end_program(process: "subprocess.Popen[Any]", send: Callable[[int], object]) -> None:
    """End a program that still runs: asked first, then killed. `send` sends it a signal."""
    if process.poll() is not None:
        return
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            send(signum)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
            return


def stop_with_parent() -> None:
    """End when the parent is gone: killing `dvc` would leave its child training on.

    Linux alone can do it. Called between fork and exec too, where nothing may be loaded any more.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
