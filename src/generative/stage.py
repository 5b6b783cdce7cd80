"""Running a stage: how it starts, and how it ends for the shell that started it."""

import ctypes
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from generative.errors import RunFailed, UserError

_PR_SET_PDEATHSIG = 1
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory")


class Terminated(BaseException):
    """SIGTERM arrived, or the process that started this one is gone."""


def run_stage(main: Callable[[], None]) -> NoReturn:
    """Run a stage's `main` and exit: 0 done, 2 bad input, 1 failed, 130 or 143 stopped."""
    _stop_with_parent()
    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.exit(exit_status(main))


def exit_status(main: Callable[[], None]) -> int:
    """Run `main`; a user's mistake becomes one sentence on standard error, not a traceback."""
    try:
        main()
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
    except Terminated:
        print("terminated", file=sys.stderr)
        return 143
    return 0


def _on_sigterm(_signum: int, _frame: FrameType | None) -> None:
    raise Terminated


def _stop_with_parent() -> None:
    """Killing `dvc` would leave its child training on; Linux can tell the child."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
