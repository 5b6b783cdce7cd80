"""Packages that the engine can do without."""

from importlib.util import find_spec
from pathlib import Path

from runrecord.errors import UserError


def require(package: str, name: str, extra: str) -> None:
    """Refuse to go on without a package that is an extra.

    Raises:
        UserError: it is not installed.
    """
    if find_spec(package) is None:
        with_make = Path(f"requirements-{extra}.lock").exists()
        command = f"make setup EXTRAS={extra}" if with_make else f"pip install 'runrecord[{extra}]'"
        raise UserError(f'{name} is not installed; run "{command}".')
