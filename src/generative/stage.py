"""Running a stage: how it starts, and how it ends for the shell that started it."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from generative.errors import RunFailed, UserError

_PR_SET_PDEATHSIG = 1
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory")


class Terminated(BaseException):
    """A signal asked this process to end, or the `dvc` that started it is gone."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.status = 128 + signum
        """What the shell expects of a process that this signal ended."""


def run_stage(main: Callable[[], None]) -> NoReturn:
    """Run a stage's `main` and exit: 0 done, 2 bad input, 1 failed, 128 + the signal if stopped."""
    if "DVC_STAGE" in os.environ:  # a stage started by hand may outlive its shell
        _stop_with_parent()
    raise_on_signals()
    status = exit_status(main)
    if status > 128:  # stopped: threads of the trackers must not hold up the end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def exit_status(main: Callable[[], int | None]) -> int:
    """Run `main` for its status, or 0; a user's mistake becomes one sentence, not a traceback."""
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:  # PyTorch has no common class for these
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        reason = str(error).partition("\n")[0].removesuffix(".")
        print(
            f"error: out of memory ({reason}); try smaller sizes in params.yaml.", file=sys.stderr
        )
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Terminated as stop:
        print("terminated", file=sys.stderr)
        return stop.status


def raise_on_signals() -> None:
    """SIGTERM, and SIGHUP unless `nohup` has it ignored, end the run as Ctrl-C does."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) == signal.SIG_DFL:
            signal.signal(signum, _on_signal)


def _on_signal(signum: int, _frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)  # once is enough
    raise Terminated(signum)


def _stop_with_parent() -> None:
    """Killing `dvc` would leave its child training on; Linux can tell the child."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
