"""The files of checkpoints: a folder a run, and in it a file an epoch."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from runrecord.errors import UserError
from runrecord.resume.identity import Identity
from runrecord.store.files import remove_unfinished, write_atomic

Arrays = Mapping[str, "np.ndarray[Any, Any]"]

KINDS = UNFINISHED, FINISHED = ".safetensors", ".finished"
"""How the names of files end, by what became of their run."""

_KEPT = 2  # of a run that goes on: the newest, and the one before it should that be damaged
_KEY = "runrecord"
_IDENTITY = "identity.json"


@dataclass(frozen=True)
class Saved:
    """A checkpoint's file, and what it says of itself."""

    path: Path
    file: safe_open
    """Opened: it can be read even if another process removes it."""
    length: int
    """How many events its run's record had."""
    begun: int
    """How many it had when the epochs began."""
    wanted: Any
    """The params that say how long the run was to go on."""

    @property
    def run_id(self) -> str:
        return self.path.parent.name

    @property
    def epoch(self) -> int:
        return epoch_of(self.path)

    @property
    def arrays(self) -> Arrays:
        """The state, read now: it may be larger than what is to be kept in memory."""
        file: Any = self.file  # its methods have no types
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write_state(
    folder: Path, epoch: int, arrays: Arrays, told: Mapping[str, Any], identity: Identity
) -> None:
    """Write a checkpoint, at once or not at all, and remove those that it makes needless.

    Args:
        folder: of the run.
        epoch: that has ended.
        arrays: the state.
        told: `length`, `begun` and `wanted` of `Saved`.
        identity: what the run's result depends on, less secrets.

    Raises:
        UserError: an array does not hold numbers.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.kind not in "biuf":
            raise UserError(f"state_dict: '{name}' is no array of numbers.")
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {_KEY: json.dumps(told)}
    file = folder / f"{epoch:06}{UNFINISHED}"
    try:
        if not (folder / _IDENTITY).exists():
            write_atomic(folder / _IDENTITY, json.dumps(identity, indent=2).encode())
        write_atomic(file, lambda new: safetensors.numpy.save_file(whole, new, metadata))
    except (OSError, SafetensorError) as error:  # the latter: as its own library says it
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        print(
            f"warning: no checkpoint of epoch {epoch} ({file}: {why}); "
            "make room: a run that is stopped now goes on from an earlier one.",
            file=sys.stderr,
        )
        return
    remove_unfinished(folder)
    with suppress(OSError):  # they are for the next epoch to remove
        for old in states_in(folder, UNFINISHED)[:-_KEPT]:
            old.unlink()


def read_states(paths: Iterable[Path]) -> Iterator[Saved]:
    """Those checkpoints, the furthest first; damaged files are set aside."""
    for path in sorted(paths, key=lambda path: (epoch_of(path), time_of(path)), reverse=True):
        try:
            file: Any = safe_open(path, framework="numpy")
            told = json.loads(file.metadata()[_KEY])
            yield Saved(path, file, int(told["length"]), int(told["begun"]), told["wanted"])
        except FileNotFoundError:
            continue  # another process has removed it
        except OSError as error:
            print(f"warning: {path} cannot be read: {error}.", file=sys.stderr)
        except (SafetensorError, KeyError, TypeError, ValueError):
            with suppress(OSError):
                path.rename(path.with_suffix(".damaged"))
            print(
                f"warning: {path} is damaged and set aside; going on from the one before it.",
                file=sys.stderr,
            )


def identity_in(folder: Path) -> Identity:
    """What the result of the run in `folder` depends on; nothing where that is not known."""
    try:
        found = json.loads((folder / _IDENTITY).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    kinds = found.items() if isinstance(found, dict) else ()
    return {kind: values for kind, values in kinds if isinstance(values, dict)}


def states_in(folder: Path, *kinds: str) -> list[Path]:
    """The checkpoints in a run's folder, in the order of their epochs."""
    found = (path for kind in kinds for path in folder.glob(f"*{kind}"))
    return sorted((path for path in found if path.stem.isdecimal()), key=epoch_of)


def epoch_of(path: Path) -> int:
    """Of a checkpoint, by its name."""
    return int(path.stem)


def time_of(path: Path) -> float:
    """When it was changed; long ago, if another process has removed it."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
