"""Files of params and metrics, and DVC's local settings, as DVC itself reads and writes them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runrecord.errors import UserError


def read_values(path: Path) -> Any:
    """What a file of params, or of metrics, holds.

    Raises:
        UserError: it cannot be read.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import PARSERS

    try:
        return PARSERS[path.suffix.lower()](path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except (DvcException, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}).") from None


def value_in(path: Path, metric: str) -> float:
    """The value of a metric in a file: by its name there, else by a dotted one.

    Raises:
        UserError: it has no number of that name.
    """
    found = read_values(path)
    value: Any = found.get(metric) if isinstance(found, dict) else None
    if value is None:
        value = found
        for key in metric.split("."):
            value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{path.name}: has no number '{metric}'.")
    return float(value)


def value_of(text: str) -> Any:
    """A value as params.yaml has it.

    Raises:
        ValueError: it is none.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import parse_yaml

    try:
        return parse_yaml(f"value: {text}", "")["value"]
    except (DvcException, KeyError):
        raise ValueError(f"{text!r} is no YAML") from None


def write_values(path: Path, values: Mapping[tuple[str, ...], Any]) -> None:
    """Set values in a file of params, by their places in it; its comments stay."""
    from dvc.utils.serialize import MODIFIERS

    with MODIFIERS[path.suffix.lower()](str(path)) as content:
        for (*blocks, name), value in values.items():
            at = content
            for block in blocks:
                at = at[block]
            at[name] = value


def share_cache(
    checkout: Path,
    cache: str,
    remotes: Mapping[str, str],
    settings_of: Path | None,
    links: str = "reflink,hardlink,copy",
    notes: Path | None = None,
) -> None:
    """Let a clone use a cache that others use, too, and link what it takes from there.

    Args:
        checkout: the clone's DVC repository.
        cache: the cache's folder.
        remotes: the address of each remote: one that is relative would lead elsewhere from here.
        settings_of: the repository whose local settings it has besides.
        links: how it takes what is in the cache, as DVC's `cache.type` names it.
        notes: the folder of what DVC notes of files, if it is the clone's own.
    """
    from dvc.config import Config

    local = checkout / ".dvc" / "config.local"
    if settings_of and (own := settings_of / ".dvc" / "config.local").exists():
        shutil.copyfile(own, local)
    with Config(str(checkout / ".dvc"), validate=False).edit("local") as config:
        for name, address in remotes.items():
            config.setdefault("remote", {}).setdefault(name, {})["url"] = address
        section = config.setdefault("cache", {})
        section["dir"], section["type"] = cache, links
        if notes:
            config.setdefault("core", {})["site_cache_dir"] = str(notes)
