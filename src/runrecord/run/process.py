"""Running a stage: how it starts, and how it ends for the shell that started it."""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from runrecord.errors import RunFailed, UserError
from runrecord.safety.text import reason, say, shown

GRACE = 10.0  # seconds that a program has which is told to end
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory")
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(SystemExit):
    """A signal asked this process to end, or the `dvc` that started it is gone."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)  # what the shell expects of a process that it ended


UNTOLD = {"DO_NOT_TRACK": "true", "DVC_NO_ANALYTICS": "1"}
"""Variables by which libraries do not tell their makers that they are used."""

_is_stage = False  # is this process a stage of `run_stage`, which ends it?

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
    release_console()
    sys.exit(status)


def set_up_process() -> None:
    """Let a process of ours end with `dvc`, and print question marks for what its console lacks."""
    stop_with_dvc()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # it is closed, or no console
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def stop_with_dvc() -> None:
    """End when the `dvc` that started this process is gone; one by hand may outlive its shell."""
    if "DVC_STAGE" in os.environ:
        stop_with_parent()


def release_console() -> None:
    """Let no console that is full or gone change the status with which this process ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (AttributeError, OSError, ValueError):  # of what a script has put in its place, too
            with suppress(AttributeError, OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def is_console_gone(error: OSError) -> bool:
    """Did whoever read what this prints end, or was its terminal closed?"""
    if error.filename is not None or error.errno not in (errno.EPIPE, errno.EIO):
        return False
    return error.errno == errno.EPIPE or any(map(_is_closed, (1, 2)))


def _is_closed(terminal: int) -> bool:
    """Is that a terminal which was closed? A disk that fails a write gives the same error."""
    try:
        os.write(terminal, b"")
    except OSError as error:
        return error.errno == errno.EIO
    return False


def exit_status(main: Callable[[], int | None], mistakes: Kinds = (), failures: Kinds = ()) -> int:
    """Run `main` for its status, or 0; a user's mistake becomes one sentence, not a traceback."""
    mistakes, failures = (UserError, *mistakes), (RunFailed, *failures)
    try:
        return main() or 0
    except (*mistakes, *failures) as error:
        stop = "" if str(error).endswith((".", "?")) else "."
        say(f"error: {shown(str(error))}{stop}")
        return 2 if isinstance(error, mistakes) else 1
    except (MemoryError, RuntimeError) as error:  # PyTorch has no common class for these
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        say(f"error: out of memory ({reason(error)}); try smaller sizes in params.yaml.")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except Terminated as stop:
        say("terminated")
        return int(str(stop.code))
    except OSError as error:
        if is_console_gone(error):
            return 128 + signal.SIGPIPE
        file = error.filename or ("the output" if error.errno in _FULL else None)
        if file is None:
            raise
        say(f"error: {shown(f'{file}: {error.strerror}')}.")
        return 1


def raise_on_signals(*, instead: bool = False) -> None:
    """SIGTERM, and SIGHUP unless `nohup` has it ignored, end the run as Ctrl-C does.

    Args:
        instead: of what a library, or an earlier run, made them and Ctrl-C do, too.
    """
    for signum in _ENDING if instead else (signal.SIGTERM, signal.SIGHUP):
        now = signal.getsignal(signum)
        if now == signal.SIG_DFL or (instead and now != signal.SIG_IGN):
            interrupts = signum == signal.SIGINT
            signal.signal(signum, signal.default_int_handler if interrupts else _on_signal)


@contextmanager
def own_signals() -> Iterator[None]:
    """Let signals end a run, and be handled as before after it; in a stage, nothing comes after."""
    if not _is_stage:
        stop_with_dvc()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    raise_on_signals(instead=_is_stage)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and not _is_stage:  # None is not Python's: nobody replaced it
                signal.signal(number, handler)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Let a person's mistake end a script with one sentence; a stage says it itself."""
    try:
        yield
    except (UserError, RunFailed, KeyboardInterrupt) as error:
        if _is_stage:
            raise
        raise SystemExit(exit_status(partial(_raise, error))) from None


def _raise(error: BaseException) -> NoReturn:
    raise error


def end_waiting_on_signals(stop: Callable[[], None]) -> None:
    """From here on the work is done and kept: a signal to end calls `stop`, and raises nothing."""
    if threading.current_thread() is not threading.main_thread():
        return
    for signum in _ENDING:
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
