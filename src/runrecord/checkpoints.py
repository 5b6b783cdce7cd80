"""Checkpoints: a run that was stopped goes on where it was, and ends with the same bytes.

Kept under the main repository's root, a folder a run, in one that is named by all that the result
depends on: a run with another parameter, code, library or kind of device never finds them. What is
in a checkpoint is its owner's.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from runrecord.files import write_atomic
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import RecordRefused
from runrecord.run_store import is_running, run_dir, state_folder

_KEPT = 2  # of a run: the newest, and the one before it should that be damaged
_UNFINISHED_KEPT = 5  # of runs that nobody went on with

S = TypeVar("S")


@dataclass(frozen=True)
class Checkpoint(Generic[S]):
    """Where a stopped run had got to."""

    run_id: str
    epoch: int
    state: S


class Checkpoints:
    """The checkpoints of one training: of every run that would come to the same result."""

    def __init__(self, root: Path, identity: object) -> None:
        """`identity` is all that the result depends on, as JSON values."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._root = root
        self._all = state_folder(root) / "checkpoints"
        self._folder = self._all / digest[:32]

    def latest(self, read: Callable[[Path], S]) -> Checkpoint[S] | None:
        """The furthest that a run got which no process works on; damaged files are set aside.

        Args:
            read: the state that a file holds; raises ValueError for a damaged one.
        """
        for path in sorted(self._folder.glob("*/*.safetensors"), key=_progress, reverse=True):
            run_id, epoch = path.parent.name, int(path.stem)
            if is_running(run_dir(self._root, run_id)) or not self._may_go_on(run_id, epoch):
                continue
            try:
                return Checkpoint(run_id, epoch, read(path))
            except (ValueError, OSError):
                path.rename(path.with_suffix(".damaged"))
                print(
                    f"warning: {path} is damaged and set aside; going on from the one before it.",
                    file=sys.stderr,
                )
        return None

    def save(self, run_id: str, epoch: int, state: bytes) -> None:
        """Write a checkpoint, at once or not at all, and remove those it makes needless."""
        folder = self._folder / run_id
        try:
            write_atomic(folder / f"{epoch:06}.safetensors", state)
        except OSError as error:
            print(
                f"warning: no checkpoint of epoch {epoch} ({error.filename}: {error.strerror}); "
                "make room: a run that is stopped now goes on from an earlier one.",
                file=sys.stderr,
            )
            return
        for old in sorted(folder.glob("*.safetensors"))[:-_KEPT]:
            old.unlink()

    def remove(self, run_id: str) -> None:
        """Remove a run's checkpoints: it ended well. Those that nobody will need go too.

        What cannot be removed now, or goes while another process does the same, is for next time.
        """
        with suppress(OSError):
            self._remove(run_id)

    def _remove(self, run_id: str) -> None:
        shutil.rmtree(self._folder / run_id, ignore_errors=True)
        folders = sorted(self._all.glob("*/*/"), key=lambda folder: folder.stat().st_mtime)
        useful = [folder for folder in folders if self._may_go_on(folder.name)]
        for folder in {*folders} - {*useful[-_UNFINISHED_KEPT:]}:
            if not is_running(run_dir(self._root, folder.name)):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self._all.glob("*/"):
            with suppress(OSError):  # it is not empty
                folder.rmdir()

    def _may_go_on(self, run_id: str, epoch: int = 0) -> bool:
        """Is that run on record up to that epoch, and did it not finish?"""
        folder = run_dir(self._root, run_id)
        try:
            record = Record(files_in(folder))
            finished = record.end is not None and record.end.status == "FINISHED"
            return not finished and record.last_epoch() >= epoch
        except RecordRefused:
            return False


def _progress(path: Path) -> tuple[str, float]:
    return path.stem, path.stat().st_mtime
