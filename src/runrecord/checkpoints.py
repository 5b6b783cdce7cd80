"""Checkpoints: a run that was stopped goes on where it was, and ends with the same bytes.

Kept under the main repository's root, a folder a run, in one that is named by all that the result
depends on: a run with another parameter, code, library or kind of device never finds them.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from runrecord.errors import UserError
from runrecord.events import Event, Logged, ModelEvaluated, ModelSaved
from runrecord.files import remove_unfinished, sha256, write_atomic
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import FORMAT, RecordRefused
from runrecord.run_store import is_running, run_dir, state_folder

_KEPT = 2  # of a run: the newest, and the one before it should that be damaged
_UNFINISHED_KEPT = 5  # of runs that nobody went on with

_KEY = "runrecord"

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class State(Protocol):
    """What a training changes: it gives named arrays, and takes them back."""

    def state_dict(self) -> Arrays:
        """All of it, as arrays of numbers."""

    def load_state_dict(self, arrays: Arrays) -> None:
        """Be as `state_dict` had it."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a stopped run had got to."""

    run_id: str
    epoch: int
    file: Path
    logged: Set[tuple[str, str, int]]
    """The kind, title and step of all that it had logged until it was stopped."""

    @property
    def arrays(self) -> Arrays:
        """The state, read now: it may be larger than what is to be kept in memory."""
        with safe_open(self.file, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


class Checkpoints:
    """The checkpoints of one stage: of every run that would come to the same result."""

    def __init__(self, root: Path, identity: object) -> None:
        """`identity` is all that the result depends on, as JSON values."""
        digest = sha256(json.dumps(identity, sort_keys=True).encode())
        self._root = root
        self._all = state_folder(root) / "checkpoints"
        self._folder = self._all / digest[:32]

    def latest(self) -> Checkpoint | None:
        """The furthest that a run got which no process works on; damaged files are set aside."""
        refused: set[str] = set()
        for path in sorted(self._folder.glob("*/*.safetensors"), key=_progress, reverse=True):
            run_id = path.parent.name
            try:
                length = _length(path)
            except (SafetensorError, KeyError, TypeError, ValueError, OSError):
                path.rename(path.with_suffix(".damaged"))
                print(
                    f"warning: {path} is damaged and set aside; going on from the one before it.",
                    file=sys.stderr,
                )
                continue
            folder = run_dir(self._root, run_id)
            if run_id in refused or is_running(folder) or not self._may_go_on(run_id, length):
                continue
            try:
                logged = _logged(Record(files_in(folder)).events())
            except RecordRefused as error:
                refused.add(run_id)
                print(f"warning: {run_id} is not gone on with: {error}", file=sys.stderr)
            else:
                return Checkpoint(run_id, int(path.stem), path, logged)
        return None

    def save(self, run_id: str, epoch: int, length: int, arrays: Arrays) -> None:
        """Write a checkpoint, at once or not at all, and remove those it makes needless.

        Args:
            run_id: of the run.
            epoch: that has ended.
            length: how many events the run's record has by now.
            arrays: the state.

        Raises:
            UserError: an array does not hold numbers.
        """
        folder = self._folder / run_id
        for name, array in arrays.items():
            if np.asarray(array).dtype.kind not in "biuf":
                raise UserError(f"state_dict: '{name}' is no array of numbers.")
        whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        metadata = {_KEY: json.dumps({"length": length})}
        file = folder / f"{epoch:06}.safetensors"
        try:
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
        for old in sorted(folder.glob("*.safetensors"))[:-_KEPT]:
            with suppress(OSError):  # its room is missed later, if at all
                old.unlink()

    def remove(self, run_id: str) -> None:
        """Remove a run's checkpoints: it ended well. Those that nobody will need go too.

        What cannot be removed now, or goes while another process does the same, is for next time.
        """
        with suppress(OSError):
            self._remove(run_id)

    def _remove(self, run_id: str) -> None:
        shutil.rmtree(self._folder / run_id, ignore_errors=True)
        folders = sorted(
            self._all.glob("*/*/"), key=lambda folder: folder.stat().st_mtime, reverse=True
        )
        useful = islice((one for one in folders if self._may_go_on(one.name)), _UNFINISHED_KEPT)
        for folder in {*folders} - {*useful}:
            if not is_running(run_dir(self._root, folder.name)):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self._all.glob("*/"):
            with suppress(OSError):  # it is not empty
                folder.rmdir()

    def _may_go_on(self, run_id: str, length: int = 0) -> bool:
        """Did that run not finish, and has its record all that it had at the checkpoint?"""
        try:
            record = Record(files_in(run_dir(self._root, run_id)))
        except RecordRefused:
            return False
        finished = record.end is not None and record.end.status == "FINISHED"
        return record.format == FORMAT and not finished and record.length >= length


def _logged(events: Iterable[Event]) -> set[tuple[str, str, int]]:
    found: set[tuple[str, str, int]] = set()
    for event in events:
        match event:
            case Logged():
                for kind in ("metrics", "images", "texts", "artifacts"):
                    found |= {(kind, title, event.step) for title in getattr(event, kind)}
            case ModelSaved():
                found.add(("models", event.name, event.step))
            case ModelEvaluated():
                found.add(("evaluated", f"{event.model} {event.sha256}", 0))
    return found


def _length(path: Path) -> int:
    """How many events its run's record had; a file that is not whole cannot be opened."""
    with safe_open(path, framework="numpy") as file:
        return int(json.loads(file.metadata()[_KEY])["length"])


def _progress(path: Path) -> tuple[str, float]:
    return path.stem, path.stat().st_mtime
