"""All that a result depends on, which is what changes numbers; and how two runs differ in it."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runrecord.errors import UserError
from runrecord.provenance.environment import SHOW, Origin, changes_numbers, versions
from runrecord.safety.text import printable

Identity = Mapping[str, Mapping[str, Any]]
"""JSON values, by their kind and name."""

_VALUES = ("params", "shown")  # kinds whose texts are told from numbers
_LONGEST = 60  # characters of a value in a sentence


def identity_of(
    origin: Origin,
    shown: Mapping[str, Any],
    device: str,
    packages: Iterable[str],
    number: int = 1,
    environment: Mapping[str, str] = os.environ,
) -> Identity:
    """All that the result of a run depends on.

    Args:
        origin: what it comes from.
        shown: the params that it is shown with.
        device: the kind of device that it computes on.
        packages: whose versions count.
        number: which run of its stage it is: a fold of several, for instance.
        environment: variables.
    """
    inputs = origin.inputs
    commands = inputs.stage.commands
    several = len(commands) > 1 or any(mark in one for one in commands for mark in "&;|")
    program = [Path(sys.argv[0]).name, *sys.argv[1:]] if several else []
    return {
        "stage": {
            "name": inputs.stage.name,
            "the command": " && ".join(commands),
            "the program": " ".join(program),  # of a stage that may run several
            "the run": number,
            "the device": device,
        },
        "params": plain(inputs.params),
        "shown": {} if shown is inputs.params else plain(shown),
        "deps": dict(inputs.deps),
        "packages": {
            "Python": ".".join(platform.python_version_tuple()[:2]),  # 3.12 sums more exactly
            **versions(name for name in packages if name not in SHOW),
        },
        "variables": {
            name: text for name, text in environment.items() if text and changes_numbers(name)
        },
    }


def without_length(identity: Identity, param: str) -> tuple[Identity, dict[str, Any]]:
    """An identity less the param, in whatever block, that only says how long the run lasts; and it.

    Raises:
        UserError: several params have that name.
    """
    rest, length = dict(identity), dict[str, Any]()
    for kind in _VALUES:
        values = identity[kind]
        named = [key for key in values if key.endswith((f".{param}", f":{param}"))]
        named = [param] if param in values else named
        if len(named) > 1:
            raise UserError(
                f"start_run(length='{param}'): the stage has several such params "
                f"({', '.join(map(printable, named))}); name one of them"
            )
        length |= {key: values[key] for key in named}
        rest[kind] = {key: value for key, value in values.items() if key not in named}
    return rest, length


def plain(value: Any) -> Any:
    """A value as it counts: 1.0 is 1, as DVC has it, and a tuple is a list."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def differences(was: Identity, now: Identity) -> list[str]:
    """How one differs from the other, a clause each."""
    found: list[tuple[str, str]] = []
    for kind in {**now, **was}:
        old, new = was.get(kind, {}), now.get(kind, {})
        for name in sorted({**old, **new}):
            before, after = _text(kind, old, name), _text(kind, new, name)
            if kind == "deps":
                change = "is gone" if after is None else "changed" if before else "is new"
            else:
                change = f"changed from {_short(before)} to {_short(after)}"
            repeats = kind == "shown" and any(change == one for _, one in found)  # by another name
            if before != after and not repeats:
                found.append((name, change))
    return [printable(f"{name} {change}") for name, change in found]


def _text(kind: str, values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    quoted = kind in _VALUES or not isinstance(value, str)
    text = json.dumps(value, ensure_ascii=False, sort_keys=True) if quoted else value
    return text if name in values else None


def _short(text: str | None) -> str:
    if text is None:
        return "not set"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
