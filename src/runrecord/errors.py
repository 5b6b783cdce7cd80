"""The two ways a stage can end badly, each carrying one sentence for the person who started it."""

from importlib.util import find_spec
from pathlib import Path


class UserError(Exception):
    """Something given is wrong, found before any work began; exit status 2."""


class RunFailed(Exception):
    """Work had begun and could not end well; exit status 1."""


def require(package: str, name: str, extra: str) -> None:
    """Refuse to go on without a package that is an extra.

    Raises:
        UserError: it is not installed.
    """
    if find_spec(package) is None:
        with_make = Path(f"requirements-{extra}.lock").exists()
        command = f"make setup EXTRAS={extra}" if with_make else f"pip install 'runrecord[{extra}]'"
        raise UserError(f'{name} is not installed; run "{command}".')
