"""All that a result depends on, and in what of it two runs differ.

Only what changes numbers: a run that was stopped goes on where that is the same.
"""

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runrecord.errors import UserError
from runrecord.provenance.environment import SHOW, Origin, changes_numbers, versions
from runrecord.safety.secrets import redact
from runrecord.safety.text import printable

Identity = Mapping[str, Mapping[str, Any]]
"""JSON values, by their kind and name."""

_VALUES = ("params", "shown")  # kinds whose texts are told from numbers
_LONGEST = 60  # characters of a value that is told


def identity_of(
    origin: Origin,
    shown: Mapping[str, Any],
    device: str,
    packages: Iterable[str],
    environment: Mapping[str, str] = os.environ,
) -> Identity:
    """All that the result of a run depends on.

    Args:
        origin: of the run.
        shown: the params that it is shown with.
        device: the kind of device that it computes on.
        packages: that the project depends on.
        environment: variables.
    """
    inputs = origin.inputs
    commands = inputs.stage.commands
    program = [Path(sys.argv[0]).name, *sys.argv[1:]] if len(commands) > 1 else []
    return {
        "stage": {
            "name": inputs.stage.name,
            "the command": " && ".join(commands),
            "the program": " ".join(program),  # of a stage that may run several
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
    """An identity less the param that only says how long the run goes on; and what that is.

    Args:
        identity: it.
        param: by its name, in whatever block.

    Raises:
        UserError: several go by that name.
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


def redacted(value: Any) -> Any:
    """JSON values less what the environment holds secret."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(one) for key, one in value.items()}
    return [redacted(one) for one in value] if isinstance(value, list) else value


def differences(was: Identity, now: Identity) -> list[str]:
    """What is another in one than in the other, a clause each."""
    found: list[tuple[str, str]] = []
    for kind in {**now, **was}:
        old, new = was.get(kind, {}), now.get(kind, {})
        for name in sorted({**old, **new}):
            if name in old and name in new and _json(old[name]) == _json(new[name]):
                continue
            change = _change(kind, name, old, new)
            if kind == "shown" and any(change == other for _, other in found):
                continue  # a param that is shown by another name
            found.append((name, change))
    return [printable(f"{name} {change}") for name, change in found]


def _change(kind: str, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if kind == "deps":
        if name in old and name in new:
            return "is another"
        return "is new" if name in new else "is gone"
    before, after = (_text(values, name, quoted=kind in _VALUES) for values in (old, new))
    return f"was {before}, is {after}"


def _text(values: Mapping[str, Any], name: str, quoted: bool) -> str:
    if name not in values:
        return "not set"
    value = values[name]
    text = value if isinstance(value, str) and not quoted else _json(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def plain(value: Any) -> Any:
    """A value as it counts: 1.0 is 1, as DVC has it, and a tuple is a list."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
