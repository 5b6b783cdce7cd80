"""What a stage of dvc.yaml reads and writes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from runrecord.errors import UserError
from runrecord.files import sha256_of
from runrecord.paths import RECORDS
from runrecord.text import printable

PARAMS_FILE = Path("params.yaml")
PIPELINE_FILE = Path("dvc.yaml")


def read_pipeline(checkout: Path) -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml, by name.

    Raises:
        UserError: it is missing or no YAML.
    """
    stages: dict[str, dict[str, Any]] = _read_yaml(checkout / PIPELINE_FILE).get("stages") or {}
    return stages


def read_stage(checkout: Path, stage: str) -> dict[str, Any]:
    """What dvc.yaml says of a stage; nothing if it does not have it."""
    return read_pipeline(checkout).get(stage, {})


def params_of(checkout: Path, stage: str) -> dict[str, object]:
    """What params.yaml holds under each key that `stage` reads; None for what it lacks.

    Raises:
        UserError: it is missing or no YAML.
    """
    keys = [key for key in read_stage(checkout, stage).get("params", []) if isinstance(key, str)]
    return _values(checkout, keys)


def changed_inputs(
    deps: Mapping[str, str], params: Mapping[str, object], checkout: Path, stage: str
) -> tuple[str, ...]:
    """What `stage` reads and is no longer what it was: dvc.lock would name what was not run.

    A dependency by its path; a param as `params.yaml: vae.beta (was 1, is 4)`.

    Args:
        deps: what `hash_deps` gave at the start.
        params: what `params_of` gave at the start.
        checkout: where the stage runs.
        stage: as dvc.yaml names it.
    """
    found = hash_deps(checkout, stage)
    changed = sorted(name for name in {**deps, **found} if deps.get(name) != found.get(name))
    try:
        was, now = _leaves(params), _leaves(_values(checkout, params))
    except UserError as error:
        return (*changed, printable(str(error).rstrip(".")))
    values = [
        f"{PARAMS_FILE}: {key} (was {was.get(key)}, is {now.get(key)})"
        for key in {**was, **now}
        if was.get(key) != now.get(key)
    ]
    return (*changed, *values)


def hash_deps(checkout: Path, stage: str) -> dict[str, str]:
    """SHA-256 of each dependency that dvc.yaml gives `stage`, by its path."""
    return _hashes(checkout, read_stage(checkout, stage).get("deps", []))


def hash_outs(checkout: Path, stage: str) -> dict[str, str]:
    """SHA-256 of all that dvc.yaml has `stage` write, its record excepted, by its path."""
    names = outs_of(read_stage(checkout, stage))
    return _hashes(checkout, [name for name in names if not name.startswith(RECORDS)])


def outs_of(stage: Mapping[str, Any]) -> list[str]:
    """The paths of a stage's outs, metrics and plots; an entry may be a path with settings."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _values(checkout: Path, keys: Iterable[str]) -> dict[str, object]:
    document = _read_yaml(checkout / PARAMS_FILE)
    return {key: _at(document, key) for key in keys}


def _at(document: object, dotted: str) -> object:
    for key in dotted.split("."):
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _leaves(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested values by their dotted keys."""
    found: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be read as YAML ({first}); correct it.") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: should hold 'key: value' blocks.")
    return document


def _hashes(checkout: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: sha256_of(checkout / name) for name in names if (checkout / name).exists()}
