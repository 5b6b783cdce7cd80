"""Running a stage of this experiment."""

from collections.abc import Callable
from typing import NoReturn

from generative.errors import RunFailed, UserError
from runrecord.run.process import run_stage


def run(main: Callable[[], None]) -> NoReturn:
    """Run a stage's `main` and exit with its status."""
    run_stage(main, mistakes=(UserError,), failures=(RunFailed,))
