"""params.yaml: read, checked and frozen; anything unexpected is refused in one sentence."""

import difflib
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from generative.errors import UserError

PARAMS_FILE = Path("params.yaml")
PIPELINE_FILE = Path("dvc.yaml")


class Section(BaseModel):
    """A block of params.yaml. Each field's description says what a right value is.

    Every key must be given, but for those that came later and have defaults.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


class _Seed(Section):
    seed: int = Field(ge=0, lt=2**63, description="a whole number from 0 to 2**63 - 1")


class Params:
    """params.yaml, whose blocks are checked as they are asked for."""

    def __init__(self, path: Path = PARAMS_FILE, pipeline: Path = PIPELINE_FILE) -> None:
        """Read the file.

        A block that no stage in dvc.yaml reads is refused: changing it would change nothing.

        Raises:
            UserError: the file is missing or no YAML, or has an unknown block.
        """
        self._path = path
        self._document = _read_yaml(path)
        stages = _read_yaml(pipeline)["stages"].values()
        known = {key.partition(".")[0] for stage in stages for key in stage.get("params", [])}
        for key in self._document:
            if key not in known:
                raise UserError(f"{path}: unknown key '{key}'{_nearest(str(key), known)}")

    def section(self, name: str, schema: type[S]) -> S:
        """The block `name`.

        Raises:
            UserError: the block or a key of it is missing, unknown or wrong.
        """
        if name not in self._document:
            raise UserError(f"{self._path}: key '{name}' is missing; it should be a block of keys.")
        return validate(schema, self._document[name], str(self._path), name)

    def seed(self) -> int:
        """The seed of everything random.

        Raises:
            UserError: it is missing or wrong.
        """
        given = {key: value for key, value in self._document.items() if key == "seed"}
        return validate(_Seed, given, str(self._path)).seed


def validate(schema: type[S], values: object, source: str, prefix: str = "") -> S:
    """`values` as a `schema`; `source` and `prefix` say where they were read, for the message.

    Raises:
        UserError: naming the first key that is wrong, its value and what would be right.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
        raise UserError(f"{source}: {_sentence(schema, details[0], prefix)}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = YAML(typ="safe").load(path.read_text(encoding="utf-8"))  # as DVC reads it
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file in {Path.cwd()}; run from the repository's root."
        ) from None
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not UTF-8 text"
        raise UserError(f"{path}: not YAML{where}: {problem}.") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: should hold 'key: value' blocks, but holds {_shown(document)}.")
    return document


def _sentence(schema: type[Section], detail: ErrorDetails, prefix: str) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    key = ".".join(part for part in (prefix, name) if part)
    field = schema.model_fields.get(name.partition(".")[0])
    description = (field and field.description) or "a block of keys"
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{key}'{_nearest(name, schema.model_fields)}"
    if detail["type"] == "missing":
        return f"key '{key}' is missing; it should be {description}."
    value = detail["input"]
    if isinstance(value, str) and (number := _as_number(value)) is not None:
        return f"{key} is the text '{value}', not a number; write {number}."
    return f"{key} is {_shown(value)}; it should be {description}."


def _nearest(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(sorted(known))}."


def _as_number(text: str) -> str | None:
    """How to write the number that a text in quotes would be."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return f"{number:f}" if number.is_finite() else None


def _shown(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else "empty" if value is None else str(value)
