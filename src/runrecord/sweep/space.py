"""Which values a study tries: `vae.latent_dim=2,10,50`, `vae.lr=0.0003..0.003:log`."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runrecord.dvc.stages import read_values, value_of, write_values
from runrecord.errors import UserError
from runrecord.safety.text import printable

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str | None

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
    def place(self) -> tuple[str, list[str]]:
        """Its file, and its keys there."""
        file, _, dotted = self.name.rpartition(":")
        return file or "params.yaml", dotted.split(".")

    @property
    def distribution(self) -> "BaseDistribution":
        """The same for Optuna."""
        from optuna import distributions

        if self.values:
            return distributions.CategoricalDistribution(self.values)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return distributions.IntDistribution(self.low, self.high, log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)


def split(given: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUES` by the name.

    Raises:
        UserError: one is not of that form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not all(Param(name).place[1]):
            raise UserError(f"'{printable(one)}': it should be PARAM=VALUES, as vae.lr=0.001,0.01.")
        if name in found:
            raise UserError(f"{printable(name)} is given twice; name all of its values at once.")
        found[name] = text
    return found


def parse(texts: Mapping[str, str]) -> list[Param]:
    """What those texts mean, by the params' names.

    Raises:
        UserError: one is not a list or a range.
    """
    return [_parsed(name, text) for name, text in texts.items()]


def _parsed(name: str, text: str) -> Param:
    where = f"{printable(name)}={printable(text)}"
    file = Path(Param(name).place[0])
    if file.is_absolute() or ".." in file.parts:
        raise UserError(f"{where}: {printable(str(file))} is outside the repository.")
    if found := _RANGE.fullmatch(text):
        low, high = (_finite(where, found[end]) for end in ("low", "high"))
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
    try:
        value = value_of(text)
    except ValueError:
        value = {}
    if not text.strip() or not isinstance(value, bool | int | float | str | None):
        raise UserError(f"{where}: '{printable(text)}' is not a value; {_FORMS}.")
    return value


def _finite(where: str, text: str) -> float:
    value = _scalar(where, text)
    if isinstance(value, bool | str | None) or not math.isfinite(value):
        raise UserError(f"{where}: a range is of numbers; {_FORMS}.")
    return value


def as_there(root: Path, texts: Mapping[str, str]) -> dict[str, str]:
    """The same space, but a range is of floats where the project's files have a float.

    Raises:
        UserError: one of its params is not in the project's files.
    """
    found = dict(texts)
    for param in parse(texts):
        of_floats = isinstance(_value_there(root, param), float) and not param.values
        if of_floats and isinstance(param.low, int) and isinstance(param.high, int):
            found[param.name] = f"{param.low}.0..{param.high}.0" + ":log" * param.log
    return found


def _value_there(root: Path, param: Param) -> Any:
    file, keys = param.place
    found, block = read_values(root / file), "it"
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            there = ", ".join(map(str, found)) if isinstance(found, dict) else "no block"
            raise UserError(printable(f"{file}: has no '{'.'.join(keys)}'; {block} has {there}."))
        found, block = found[key], f"'{key}'"
    if isinstance(found, dict):
        there = ", ".join(map(str, found))
        raise UserError(printable(f"{file}: {block} is a block; name one of {there} in it."))
    return found


def set_params(root: Path, values: Mapping[str, Value]) -> None:
    """Set params in their files."""
    for name, value in values.items():
        file, keys = Param(name).place
        write_values(root / file, {tuple(keys): value})
