"""Checkpoints: a run that was stopped resumes where it was, and ends with the same bytes.

They lie under the main repository's root: a folder per identity, which is all that a result
depends on, in it a folder per run, and in it a file per epoch. A run with another parameter, code,
library or kind of device never finds them. The identity lies beside them, for the reason why not.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import psutil
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from runrecord.errors import UserError
from runrecord.files import remove_unfinished, sha256, write_atomic
from runrecord.record.events import Event, Logged, ModelEvaluated, ModelSaved, RecordRefused
from runrecord.record.reader import Record, record_in
from runrecord.resume.identity import Identity, differences
from runrecord.safety.secrets import fit
from runrecord.safety.text import say, some
from runrecord.store.runs import is_running, run_dir, state_folder, was_claimed_since

Arrays = Mapping[str, "np.ndarray[Any, Any]"]
PRUNED = "study.pruned"
"""The tag that says why a study ended a run; such a run is never resumed."""
_KEY, _IDENTITY = "runrecord", "identity.json"
_STATES = 2  # kept of a run: the newest, and the one before it in case that is damaged
_RUNS = 5  # kept of a stage, or of a study's trial: finished ones, and as many unfinished ones
_TOGETHER = 60.0  # seconds within which the ranks of one job start
_SHORT, _LONGEST = 12, 60  # characters of a SHA-256, and of a title

Key = tuple[str, str, int]
"""Of something logged: kind, title and step."""
OnRecord = Mapping[Key, list[object]]
"""The SHA-256 of a file, or all values of a metric or an evaluation, as often as logged."""
DIFFERS = "resumed.differs"
"""The tag of a run whose repeated epochs did not give the same."""


@runtime_checkable
class State(Protocol):
    """What a training changes: it gives named arrays, and takes them back."""

    def state_dict(self) -> Arrays:
        """All of it, as arrays of numbers."""

    def load_state_dict(self, arrays: Arrays) -> None:
        """Be as `state_dict` had it."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint's file, and what it says of itself."""

    path: Path
    file: safe_open  # opened: it can be read even if another process removes it
    length: int  # events in its run's record at that time
    begun: int  # events when the epochs began
    wanted: Any  # the params that say how long the run was to last
    left: Any  # keys and values that were on record by then, and are not of its epochs

    @property
    def run_id(self) -> str:
        """The run that saved it."""
        return self.path.parent.name

    @property
    def epoch(self) -> int:
        """The last one that it is behind."""
        return int(self.path.stem)

    @property
    def arrays(self) -> Arrays:
        """The state, read now: it may be larger than what is to be kept in memory."""
        file: Any = self.file  # its methods have no types
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@dataclass(frozen=True)
class Checkpoint:
    """How far an earlier run got."""

    saved: Saved
    record: Record
    logged: OnRecord  # what a run that resumes has on record, and does not log again
    epochs: list[Event]  # what a shorter run logged in its epochs up to this one


class Checkpoints:
    """The checkpoints of every run that would come to the same result."""

    def __init__(
        self,
        root: Path,
        identity: Identity,
        wanted: Mapping[str, Any] | None = None,
        follows: bool = False,
    ) -> None:
        """Find checkpoints of the main repository at `root`.

        Args:
            root: of the repository.
            identity: all that the result depends on, as JSON values.
            wanted: the params that only say how long the run is to last; not in the identity.
            follows: this process records nothing, as rank 0 of the same job does. It takes the
                checkpoint of rank 0, which may have claimed that run already, and saves none.
        """
        self._root, self._follows = root, follows
        self._identity: Identity = fit(identity, os.environ)
        self._wanted = json.loads(json.dumps(wanted or {}))
        self._all = state_folder(root) / "checkpoints"
        self._folder = self._all / sha256(json.dumps(identity, sort_keys=True).encode())[:32]
        self._refused: dict[str, tuple[int, str]] = {}
        """The epoch of a run's last checkpoint, and why it is not used, by the run's id."""

    def latest(self) -> Checkpoint | None:
        """The furthest checkpoint of an unfinished run of this length which no process works on."""
        return self._first(lambda saved: saved.wanted == self._wanted, resumes=True)

    def earlier(self, count: int) -> Checkpoint | None:
        """The furthest checkpoint of a run of another length, before epoch `count`."""

        def fits(saved: Saved) -> bool:
            if saved.wanted != self._wanted and saved.epoch >= count:
                self._refuse(saved, f"only {count} are wanted")
            return saved.wanted != self._wanted and saved.epoch < count and not saved.left

        return self._first(fits, resumes=False)

    def why_anew(self) -> str:
        """Why no checkpoint of this stage was used, as a sentence; empty if there is none.

        Of several runs that left checkpoints, the one is named that differs least.
        """
        near = [
            ([reason], self._folder / run_id, epoch)
            for run_id, (epoch, reason) in self._refused.items()
        ]
        stage = self._identity.get("stage", {}).get("name")
        for folder in self._run_folders():
            was, states = identity_in(folder), states_in(folder)
            of_stage = was.get("stage", {}).get("name") == stage
            if not states or not of_stage or folder.parent == self._folder:
                continue
            if not (_is_finished(self._record(folder.name)) or self._is_running(folder.name)):
                reasons = differences(was, self._identity) or ["a secret value changed"]
                near.append((reasons, folder, int(states[-1].stem)))
        if not near:
            return ""
        reasons, folder, epoch = min(near, key=lambda one: (len(one[0]), -_time_of(one[1])))
        epochs = "1 epoch" if epoch == 1 else f"{epoch} epochs"
        return f"not resuming {folder.name} ({epochs}): {some(reasons)}"

    def save(
        self, run_id: str, epoch: int, length: int, arrays: Arrays, begun: int, had: OnRecord
    ) -> None:
        """Write a checkpoint, at once or not at all, and remove those that it makes needless.

        The run's record has `length` events by now, and had `begun` when the epochs began. What
        is left of what it `had` is of later epochs: it was further once, and lost that checkpoint.

        Raises:
            UserError: an array does not hold numbers.
        """
        if self._follows:
            return
        if not isinstance(arrays, Mapping):
            raise UserError("state_dict: it does not give a mapping of names to arrays.")
        for name, array in arrays.items():
            if np.asarray(array).dtype.kind not in "biuf":
                raise UserError(f"state_dict: '{name}' is not an array of numbers.")
        whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        left = [[*key, values] for key, values in _left(had).items()]
        told = {"length": length, "begun": begun, "wanted": self._wanted, "left": left}
        metadata = {_KEY: json.dumps(told)}
        folder = self._folder / run_id
        file = folder / f"{epoch:06}.safetensors"
        try:
            if not (folder / _IDENTITY).exists():
                write_atomic(folder / _IDENTITY, json.dumps(self._identity, indent=2).encode())
            write_atomic(file, lambda new: safetensors.numpy.save_file(whole, new, metadata))
        except (OSError, SafetensorError) as error:  # the latter: as its own library says it
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            say(
                f"warning: no checkpoint of epoch {epoch} ({file}: {why}); make room: a run that "
                "is stopped now resumes from an earlier one.",
            )
            return
        remove_unfinished(folder)
        with suppress(OSError):  # they are for the next epoch to remove
            for old in states_in(folder)[:-_STATES]:
                old.unlink()

    def remove(self, run_id: str) -> None:
        """Remove the checkpoints of a run that finished, and those that nobody will need.

        The last one stays where the run may be wanted longer. What cannot be removed now is left
        for the next time.
        """
        with suppress(OSError):
            if not self._wanted:
                self.drop(run_id)
            for needless in states_in(self._folder / run_id)[:-1]:
                needless.unlink()
        with suppress(OSError):
            self._tidy()

    def drop(self, run_id: str) -> None:
        """Remove a run's checkpoints: it is never to be resumed."""
        shutil.rmtree(self._folder / run_id, ignore_errors=True)

    def _tidy(self) -> None:
        kept: Counter[tuple[str | bool, ...]] = Counter()
        for folder in sorted(self._run_folders(), key=_time_of, reverse=True):
            record, group = self._record(folder.name), None
            if record and states_in(folder):
                tags, finished = record.start.tags, _is_finished(record)
                trial = () if finished else (tags.get("study", ""), tags.get("study.trial", ""))
                group = (record.start.stage, finished, *trial)
            if group and kept[group] < _RUNS:
                kept[group] += 1
            elif not self._is_running(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self._all.glob("*/"):
            with suppress(OSError):  # it is not empty
                folder.rmdir()

    def _run_folders(self) -> list[Path]:
        return [path for path in self._all.glob("*/*/") if path.is_dir()]

    def _first(self, fits: Callable[[Saved], bool], resumes: bool) -> Checkpoint | None:
        """The furthest checkpoint that fits, for its own run that `resumes`, or for another one."""
        for saved in filter(fits, _opened(self._folder)):
            record = self._record(saved.run_id)
            if resumes and _is_finished(record):
                continue
            found = self._checkpoint(saved, record, resumes)
            if isinstance(found, Checkpoint):
                return found
            self._refuse(saved, found)
        return None

    def _checkpoint(self, saved: Saved, record: Record | None, resumes: bool) -> Checkpoint | str:
        """How far a run got by what it saved; or why that is of no use, as a clause."""
        if record is None or record.length < saved.length:
            return "its record is gone, damaged or lacks an epoch"
        if self._is_running(saved.run_id):
            return (
                "it still runs, as far as this machine can tell; if it does not, run "
                f"'runrecord reap {saved.run_id}'"
            )
        epochs, others = list[Event](), list[Event]()
        try:
            last = None if resumes else saved.length  # what is damaged elsewhere is not taken over
            for number, event in enumerate(islice(record.events(files=False), last)):
                within = saved.begun <= number < saved.length
                usable = record.usable(event) if resumes or within else None
                if usable and not resumes:
                    epochs.append(usable)
                if usable and (not within or getattr(usable, "tags", {})):
                    others.append(usable)
        except (RecordRefused, OSError) as error:
            return f"its record cannot be used: {error}"
        logged = on_record(others)  # what epochs up to the checkpoint logged is not logged again
        for *key, had in saved.left:
            logged[tuple(key)] = [*had, *logged.get(tuple(key), ())]
        if resumes and ("tags", PRUNED, 0) in logged:
            return "its study ended it"
        if damage := record.damage():
            if not resumes:  # the new run's record would lack what is damaged
                return f"its record has damaged files: {damage}"
            say(f"warning: {saved.run_id} resumes without damaged files of its record: {damage}.")
        return Checkpoint(saved, record, logged, epochs)

    def _refuse(self, saved: Saved, reason: str) -> None:
        self._refused.setdefault(saved.run_id, (saved.epoch, reason))

    def _record(self, run_id: str) -> Record | None:
        return record_in(run_dir(self._root, run_id))

    def _is_running(self, run_id: str) -> bool:
        folder = run_dir(self._root, run_id)
        if self._follows and was_claimed_since(folder, psutil.Process().create_time() - _TOGETHER):
            return False
        return is_running(folder)


def on_record(events: Iterable[Event]) -> dict[Key, list[object]]:
    """All that those events logged."""
    found: dict[Key, list[object]] = {}

    def add(kind: str, title: str, step: int, value: object) -> None:
        found.setdefault((kind, title, step), []).append(value)

    for event in events:
        match event:
            case Logged(step=step):
                for name, value in event.metrics.items():
                    add("metrics", name, step, [value, *event.steps.get(name, [])])
                for kind in ("images", "texts", "artifacts"):
                    for title, file in getattr(event, kind).items():
                        add(kind, title, step, file.sha256)
                for name, text in event.tags.items():
                    add("tags", name, 0, text)
            case ModelSaved():
                add("models", event.name, event.step, event.file.sha256)
            case ModelEvaluated():
                add("evaluated", f"{event.model} {event.sha256}", 0, found_in(event))
    return found


def found_in(event: ModelEvaluated) -> list[str]:
    """What an evaluation found: its metrics, curves and config."""
    found = (*event.metrics.items(), *event.series.items(), *event.config.items())
    return [f"{name} {value!r}" for name, value in found]


def not_logged_again(left: OnRecord) -> str:
    """What a run logged before a stop and not again, as a sentence; empty if nothing."""
    if not (keys := _left(left)):
        return ""
    key = min(keys, key=lambda key: key[2])
    return f"{_name(key)} of epoch {key[2]} was logged before the stop, and not again after it"


def _left(had: OnRecord) -> OnRecord:
    """What a run that resumed has on record and has not logged again, which tags are not."""
    return {key: values for key, values in had.items() if values and key[0] != "tags"}


def difference(key: Key, was: object, now: object) -> str:
    """How what is logged again differs from the record, as a sentence; empty if it does not."""
    if repr(now) == repr(was):
        return ""
    parts = (one if isinstance(one, list) else [str(one)[:_SHORT]] for one in (was, now))
    old, new = next(pair for pair in zip_longest(*parts) if repr(pair[0]) != repr(pair[1]))
    return (
        f"epoch {key[2]} was computed again after the stop, and {_name(key)} differs: {old} on "
        f"record, {new} now; the record keeps the first, and what follows comes from the second"
    )


def _name(key: Key) -> str:
    kind, title, _ = key
    return title if kind == "metrics" else f"{kind}: {title[:_LONGEST]}"


def folders_of(root: Path, run_id: str) -> list[Path]:
    """The folders that hold a run's checkpoints."""
    return [*(state_folder(root) / "checkpoints").glob(f"*/{run_id}/")]


def identity_in(folder: Path) -> Identity:
    """What the result of the run in `folder` depends on; nothing where that is not known."""
    try:
        found = json.loads((folder / _IDENTITY).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    kinds = found.items() if isinstance(found, dict) else ()
    return {kind: values for kind, values in kinds if isinstance(values, dict)}


def states_in(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, in the order of their epochs."""
    found = (path for path in folder.glob("*.safetensors") if path.stem.isdecimal())
    return sorted(found, key=lambda path: int(path.stem))


def _opened(folder: Path) -> Iterator[Saved]:
    """The checkpoints of an identity, the furthest first; damaged files are set aside."""
    paths = [path for run in folder.glob("*/") for path in states_in(run)]
    for path in sorted(paths, key=lambda path: (int(path.stem), _time_of(path)), reverse=True):
        try:
            file: Any = safe_open(path, framework="numpy")
            told = json.loads(file.metadata()[_KEY])
            length, begun = int(told["length"]), int(told["begun"])
            yield Saved(path, file, length, begun, told["wanted"], told.get("left", ()))
        except FileNotFoundError:
            continue  # another process has removed it
        except OSError as error:
            say(f"warning: {path} cannot be read: {error}.")
        except (SafetensorError, KeyError, TypeError, ValueError):
            with suppress(OSError):
                path.rename(path.with_suffix(".damaged"))
            say(f"warning: {path} is damaged and set aside; trying the one before it.")


def _is_finished(record: Record | None) -> bool:
    return record is not None and record.end is not None and record.end.status == "FINISHED"


def _time_of(path: Path) -> float:
    """When a file was changed; long ago if another process has removed it."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
