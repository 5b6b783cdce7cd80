"""How a stage can end badly, and what is wrong with a YAML file or a value: decides no result."""

import difflib
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


class UserError(Exception):
    """Something given is wrong, found before any work began; exit status 2."""


class RunFailed(Exception):
    """Work had begun and could not end well; exit status 1."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A file of `key: value` blocks, as DVC reads it.

    Raises:
        UserError: it is missing, or none.
    """
    try:
        document = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
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
        found = "is empty" if document is None else f"holds {_shown(document)}"
        raise UserError(f"{path}: should hold 'key: value' blocks, but {found}.")
    return document


def sentence(schema: type[BaseModel], error: ValidationError, prefix: str) -> str:
    """The first wrong key of a block, its value and what would be right; unknown keys first."""
    details = error.errors(include_url=False)
    details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
    detail = details[0]
    name = ".".join(str(part) for part in detail["loc"])
    key = ".".join(part for part in (prefix, name) if part)
    field = schema.model_fields.get(name.partition(".")[0])
    description = (field and field.description) or "a block of keys"
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{key}'{nearest(name, schema.model_fields)}"
    if detail["type"] == "missing":
        return f"key '{key}' is missing; it should be {description}."
    value = detail["input"]
    if isinstance(value, str) and (number := _as_number(value)) is not None:
        return f"{key} is the text '{value}', not a number; write {number}."
    return f"{key} is {_shown(value)}; it should be {description}."


def nearest(key: str, known: Iterable[str]) -> str:
    """What may have been meant by an unknown key; else all that are known."""
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
