"""What a stage reads and writes, by content: before its work, and after."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runrecord.dvc.stages import Stage, StageAtWork, find_stage, hash_paths
from runrecord.errors import UserError
from runrecord.files import known_digests
from runrecord.project import RECORDS, repo_root
from runrecord.record.events import START
from runrecord.safety.text import printable
from runrecord.store.runs import state_folder


@dataclass(frozen=True)
class Inputs(StageAtWork):
    """What a stage read when it began."""

    deps: Mapping[str, str]
    """SHA-256 of each dependency that is there, by its path from the repository's root."""


def read_inputs(checkout: Path, stage: str, cwd: Path) -> Inputs:
    """What `stage`, which runs in `cwd`, reads.

    Raises:
        UserError: DVC cannot read its files.
    """
    found = find_stage(checkout, stage, cwd)
    with known_digests(state_folder(repo_root(checkout)) / "digests.db") as digest_of:
        return Inputs(**vars(found), deps=hash_paths(checkout, found.stage.deps, False, digest_of))


def changed_inputs(was: Inputs, checkout: Path, cwd: Path) -> tuple[str, ...]:
    """What the stage reads and is no longer what it was: dvc.lock would name what was not run.

    A dependency by its path; a param as `vae.beta (was 1, is 4)`.
    """
    try:
        now = read_inputs(checkout, was.stage.name, cwd)
    except UserError as error:
        return (printable(str(error).rstrip(".")),)
    changed = [
        name for name in {**was.deps, **now.deps} if was.deps.get(name) != now.deps.get(name)
    ]
    before, after = _texts(was.params), _texts(now.params)
    values = [
        f"{key} (was {before.get(key)}, is {after.get(key)})"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    return (*sorted(changed), *map(printable, values))


def hash_outs(checkout: Path, stage: Stage) -> dict[str, str]:
    """SHA-256 of all that `stage` wrote by now, its record excepted, by its path."""
    record = record_of(checkout, stage)
    return hash_paths(checkout, [name for name in stage.outs if name != record], compiled=True)


def record_of(checkout: Path, stage: Stage) -> str | None:
    """The out in which `stage` keeps its run's record, if it declares one.

    It is the first under `records/` that nothing else is in: DVC removes a stage's outs before it
    runs, so what a script put there is no record.
    """
    places = [checkout / name for name in stage.outs if name.startswith(RECORDS)]
    free = (place for place in places if not place.exists() or (place / START).is_file())
    place = next(free, None)
    return place.relative_to(checkout).as_posix() if place else None


def _texts(params: Mapping[str, object]) -> dict[str, str]:
    """As JSON has them: by that, a number is no text, and NaN is itself."""
    return {
        key: json.dumps(value, ensure_ascii=False, default=str) for key, value in params.items()
    }
