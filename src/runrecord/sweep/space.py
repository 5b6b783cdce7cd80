"""Which values a study tries: `vae.latent_dim=2,10,50`, `vae.lr=0.0003..0.003:log`."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runrecord.dvc.params import read_values, value_of, write_values
from runrecord.errors import UserError
from runrecord.safety.text import printable

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str | None
PARAMS = "params.yaml"

_NUMBER = r"[-+]?(?:(?:\d[\d_]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?|\.(?:inf|nan))"
_RANGE = re.compile(rf"(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?P<log>:log)?")
_FORMS = "it should be a list (2,10,50) or a range (1..9, 0.0003..0.003:log)"


@dataclass(frozen=True)
class Param:
    """A param and what it may be: one of `values`, or all from `low` to `high`."""

    name: str
    """Dotted; of another file than params.yaml, `FILE:NAME`."""
    values: tuple[Value, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def file(self) -> str:
        """Where it is."""
        return self.name.rpartition(":")[0] or PARAMS

    @property
    def keys(self) -> list[str]:
        """Where it is in that file."""
        return self.name.rpartition(":")[2].split(".")

    @property
    def distribution(self) -> "BaseDistribution":
        """The same for Optuna."""
        from optuna import distributions

        if self.values:
            return distributions.CategoricalDistribution(self.values)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return distributions.IntDistribution(self.low, self.high, log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)


def parse(texts: Mapping[str, str]) -> list[Param]:
    """What those texts say, by the params' names.

    Raises:
        UserError: one says nothing that can be tried.
    """
    return [_parsed(name, text) for name, text in texts.items()]


def split(given: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUES` by the name.

    Raises:
        UserError: one is not of that form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not all(name.rpartition(":")[2].split(".")):
            raise UserError(f"'{printable(one)}': it should be PARAM=VALUES, as vae.lr=0.001,0.01.")
        if name in found:
            raise UserError(f"{printable(name)} is given twice; name all of its values at once.")
        found[name] = text
    return found


def as_there(root: Path, texts: Mapping[str, str]) -> dict[str, str]:
    """The same space: where the project's files have a float, a range is one of floats.

    Raises:
        UserError: one of its params is not in the project's files.
    """
    found = dict(texts)
    for param in parse(texts):
        of_floats = isinstance(_value_there(root, param), float) and not param.values
        if of_floats and isinstance(param.low, int) and isinstance(param.high, int):
            ends = f"{float(param.low)}..{float(param.high)}"
            found[param.name] = f"{ends}:log" if param.log else ends
    return found


def _value_there(root: Path, param: Param) -> Value:
    """What the project's files have of a param.

    Raises:
        UserError: they have none.
    """
    found = read_values(root / param.file)
    at: Any = found
    for key in param.keys:
        if not isinstance(at, dict) or key not in at:
            there = ", ".join(sorted(_leaves(found)))
            raise UserError(
                f"{param.file}: has no '{printable('.'.join(param.keys))}'; it has "
                f"{printable(there)}."
            )
        at = at[key]
    if isinstance(at, dict):
        raise UserError(
            f"{param.file}: '{printable('.'.join(param.keys))}' is a block; name one of "
            f"{printable(', '.join(sorted(map(str, at))))} in it."
        )
    value: Value = at
    return value


def set_params(root: Path, values: Mapping[str, Value]) -> None:
    """Set params in their files."""
    for file in {Param(name).file for name in values}:
        own = {tuple(Param(n).keys): value for n, value in values.items() if Param(n).file == file}
        write_values(root / file, own)


def _parsed(name: str, text: str) -> Param:
    where = f"{printable(name)}={printable(text)}"
    file = Path(Param(name).file)
    if file.is_absolute() or ".." in file.parts:
        raise UserError(f"{where}: {printable(str(file))} is outside the repository.")
    if found := _RANGE.fullmatch(text):
        low, high = (_scalar(where, found[end]) for end in ("low", "high"))
        if not (_is_number(low) and _is_number(high)):
            raise UserError(f"{where}: a range is of numbers; {_FORMS}.")
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        if low >= high:
            raise UserError(f"{where}: a range begins below its end.")
        if found["log"] and low <= 0:
            raise UserError(f"{where}: a logarithmic range is above 0.")
        return Param(name, low=low, high=high, log=bool(found["log"]))
    values = tuple(_scalar(where, one) for one in text.split(","))
    if len({(type(one), one) for one in values}) < len(values):
        raise UserError(f"{where}: names a value twice.")
    return Param(name, values)


def _scalar(where: str, text: str) -> Value:
    """A value as params.yaml would have it."""
    try:
        value = value_of(text)
    except ValueError:
        value = {}
    if not text.strip() or not isinstance(value, bool | int | float | str | None):
        raise UserError(f"{where}: '{printable(text)}' is no value; {_FORMS}.")
    return value


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _leaves(values: Any, prefix: str = "") -> list[str]:
    if not isinstance(values, dict):
        return [prefix.rstrip(".")]
    return [name for key, one in values.items() for name in _leaves(one, f"{prefix}{key}.")]
