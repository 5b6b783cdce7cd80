"""How a stage can end badly, and what is wrong with a YAML file or a value: decides no result."""

import difflib
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

_WHOLE = ""  # a stage reads all of a file
_TEMPLATE = "${"  # what it reads is for DVC to know
_SHARED = {"seed", "data", "split", "compute", "evaluate"}  # beside the models' blocks


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


def refuse_unknown_blocks(path: Path, document: Mapping[str, Any], pipeline: Path) -> None:
    """Refuse a block of params.yaml that no stage in `pipeline` reads: it would change nothing.

    One of this project's own is fine whose stage was taken out.

    Raises:
        UserError: there is such a block.
    """
    known, models = _SHARED | _keys_read(path.name, pipeline), Path(__file__).parent / "models"
    if known & {_WHOLE, _TEMPLATE}:
        return
    for key in document:
        if key not in known and not (models / f"{key}.py").is_file():
            raise UserError(f"{path}: unknown key '{key}'{nearest(str(key), known)}")


def stages_in(pipeline: Path) -> dict[str, dict[str, Any]]:
    """The stages of a dvc.yaml, as they are written there.

    Raises:
        UserError: what it has in their place is none.
    """
    stages = read_yaml(pipeline).get("stages") or {}
    named = stages if isinstance(stages, dict) else {"stages": stages}
    for name, body in named.items():
        if not isinstance(body, dict):
            raise UserError(f"{pipeline}: '{name}' should be a block of keys.")
    return named


def _keys_read(params: str, pipeline: Path) -> set[str]:
    """Which blocks of `params` the stages in `pipeline` read, in any form that DVC has."""
    bodies = [stage.get("do", stage) for stage in stages_in(pipeline).values()]
    entries: list[Any] = [entry for body in bodies for entry in body.get("params") or ()]
    keys: list[str] = []
    for entry in entries:
        given = entry if isinstance(entry, dict) else {params: [entry]}
        if params in given:
            keys += given[params] or [_WHOLE]
    return {_TEMPLATE if _TEMPLATE in key else key.partition(".")[0] for key in keys}


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
    is_number = detail["type"] in ("int_type", "float_type")
    if is_number and isinstance(value, str) and (number := _as_number(value)) is not None:
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
