"""Checkpoints: a run that was stopped goes on where it was, and ends with the same bytes.

Kept under the main repository's root, a folder a run, in one that is named by all that the result
depends on: a run with another parameter, code, library or kind of device never takes them. What
that was is kept beside them, so that it can be said why.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from runrecord.record.events import Event
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import START, RecordRefused, read_start
from runrecord.resume.identity import Identity, differences, redacted
from runrecord.resume.saved_states import (
    FINISHED,
    KINDS,
    UNFINISHED,
    Arrays,
    Saved,
    epoch_of,
    identity_in,
    read_states,
    states_in,
    time_of,
    write_state,
)
from runrecord.run.repeated import OnRecord, has_tags, on_record
from runrecord.store.files import sha256
from runrecord.store.place import process_began, was_claimed_since
from runrecord.store.runs import is_running, run_dir, state_folder

PRUNED = "study.pruned"
"""The tag that says why a study ended a run, which nothing goes on from."""
_KEPT = 5  # of a stage, or of a study's trial: runs that ended, and as many that did not
_TOGETHER = 60.0  # seconds within which the ranks of one job start
_TOLD = 4  # differences, at most


class State(Protocol):
    """What a training changes: it gives named arrays, and takes them back."""

    def state_dict(self) -> Arrays:
        """All of it, as arrays of numbers."""

    def load_state_dict(self, arrays: Arrays) -> None:
        """Be as `state_dict` had it."""


@dataclass(frozen=True)
class Checkpoint:
    """Where an earlier run had got to."""

    saved: Saved
    record: Record
    """Of that run."""
    logged: OnRecord
    """All that the run has on record that goes on from here."""

    def events(self) -> Iterator[Event]:
        """What the earlier run logged in its epochs up to this one."""
        found = islice(self.record.events(files=False), self.saved.begun, self.saved.length)
        return filter(None, map(self.record.usable, found))


class Checkpoints:
    """The checkpoints of one stage: of every run that would come to the same result."""

    def __init__(
        self,
        root: Path,
        identity: Identity,
        wanted: Mapping[str, Any] | None = None,
        follows: bool = False,
    ) -> None:
        """Those of a main repository's runs.

        Args:
            root: of the repository.
            identity: all that the result depends on, as JSON values.
            wanted: the params that only say how long the run is to go on; none of the identity.
            follows: this process records nothing, as rank 0 of the same job does: it goes on from
                where that one does, which may have claimed its run already, and writes none.
        """
        self._follows = follows
        digest = sha256(json.dumps(identity, sort_keys=True).encode())
        self._root = root
        self._identity: Identity = redacted(identity)
        self._wanted = json.loads(json.dumps(wanted or {}))
        self._all = state_folder(root) / "checkpoints"
        self._folder = self._all / digest[:32]

    def latest(self) -> Checkpoint | None:
        """The furthest that an unfinished run of this length got which no process works on."""
        own = (one for one in self._saved(UNFINISHED) if one.wanted == self._wanted)
        return self._furthest(own, anew=False)

    def earlier(self, count: int) -> Checkpoint | None:
        """The furthest that a run of another length got, short of `count` epochs."""
        others = (one for one in self._saved(*KINDS) if one.wanted != self._wanted)
        return self._furthest((one for one in others if one.epoch < count), anew=True)

    def why_anew(self, count: int) -> str:
        """Why no checkpoint of this stage serves a run of `count` epochs; empty if there is none.

        Of several that an earlier run left, the one is told of that differs least.
        """
        near = []
        for folder in self._run_folders():
            epochs = [epoch_of(path) for path in states_in(folder, *KINDS)]
            if epochs and (reasons := self._reasons(folder, epochs[-1], count)):
                near.append((len(reasons), -time_of(folder), folder.name, epochs[-1], reasons))
        if not near:
            return ""
        _, _, run_id, epoch, reasons = min(near)
        whose = f"epochs 1 to {epoch} of {run_id} are" if epoch > 1 else f"epoch 1 of {run_id} is"
        more = f" and {len(reasons) - _TOLD} more" if len(reasons) > _TOLD else ""
        return f"{whose} not gone on with: {', '.join(reasons[:_TOLD])}{more}"

    def save(self, run_id: str, epoch: int, length: int, arrays: Arrays, begun: int = 0) -> None:
        """Write a checkpoint, at once or not at all, and remove those it makes needless.

        Args:
            run_id: of the run.
            epoch: that has ended.
            length: how many events the run's record has by now.
            arrays: the state.
            begun: how many it had when the epochs began.

        Raises:
            UserError: an array does not hold numbers.
        """
        if self._follows:
            return
        told = {"length": length, "begun": begun, "wanted": self._wanted}
        write_state(self._folder / run_id, epoch, arrays, told, self._identity)

    def remove(self, run_id: str) -> None:
        """Remove a run's checkpoints: it ended well. Those that nobody will need go too.

        The last one stays where the run may be wanted longer. What cannot be removed now, or goes
        while another process does the same, is for next time.
        """
        with suppress(OSError):
            self._finish(run_id)
        with suppress(OSError):
            self._tidy()

    def drop(self, run_id: str) -> None:
        """Remove a run's checkpoints: nothing is to go on from it."""
        shutil.rmtree(self._folder / run_id, ignore_errors=True)

    def _finish(self, run_id: str) -> None:
        folder = self._folder / run_id
        files = states_in(folder, UNFINISHED)
        if not self._wanted or not files:
            shutil.rmtree(folder, ignore_errors=True)
            return
        *needless, last = files
        last.rename(last.with_suffix(FINISHED))
        for path in needless:
            path.unlink()

    def _tidy(self) -> None:
        kept: Counter[tuple[str, ...]] = Counter()
        for folder in sorted(self._run_folders(), key=time_of, reverse=True):
            stage, *trial = self._whose(folder)
            finished = bool(states_in(folder, FINISHED))
            group = (stage, FINISHED) if finished else (stage, UNFINISHED, *trial)
            if kept[group] < _KEPT and (finished or self._may_go_on(folder)):
                kept[group] += 1
            elif not self._goes_on(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self._all.glob("*/"):
            with suppress(OSError):  # it is not empty
                folder.rmdir()

    def _whose(self, folder: Path) -> tuple[str, str, str]:
        """The stage of the run in a folder, and its study and trial, if it is of one."""
        try:
            start = read_start((run_dir(self._root, folder.name) / START).read_bytes())
        except (OSError, ValueError):
            return str(_stage(identity_in(folder))), "", ""
        return start.stage, start.tags.get("study", ""), start.tags.get("study.trial", "")

    def _run_folders(self) -> list[Path]:
        return [path for path in self._all.glob("*/*/") if path.is_dir()]

    def _saved(self, *kinds: str) -> Iterator[Saved]:
        """The checkpoints of this identity, the furthest first."""
        return read_states(
            path for folder in self._folder.glob("*/") for path in states_in(folder, *kinds)
        )

    def _furthest(self, found: Iterable[Saved], anew: bool) -> Checkpoint | None:
        """The first that can be gone on from: by its own run, or `anew` by another one."""
        refused: set[str] = set()
        for saved in found:
            record = self._record(saved.run_id, saved.length)
            if record is None or saved.run_id in refused or self._goes_on(saved.run_id):
                continue
            if not anew and _is_finished(record):
                continue
            first, last = (saved.begun, saved.length) if anew else (0, None)
            try:
                events = enumerate(islice(record.events(files=False), first, last), first)
                usable = ((number, record.usable(event)) for number, event in events)
                # What epochs up to the checkpoint logged is not logged again; all else is.
                logged = on_record(
                    event
                    for number, event in usable
                    if event and (not saved.begun <= number < saved.length or has_tags(event))
                )
            except (RecordRefused, OSError) as error:
                refused.add(saved.run_id)
                print(f"warning: {saved.run_id} is not gone on with: {error}", file=sys.stderr)
                continue
            if not anew and ("tags", PRUNED, 0) in logged:
                refused.add(saved.run_id)
                continue
            if damage := record.damage():
                what = "is not gone on with" if anew else "goes on, its record with damaged files"
                print(f"warning: {saved.run_id} {what}: {damage}.", file=sys.stderr)
                if anew:  # its epochs would be lacking in the new run's record
                    refused.add(saved.run_id)
                    continue
            return Checkpoint(saved, record, logged)
        return None

    def _reasons(self, folder: Path, epoch: int, count: int) -> list[str]:
        """Why a run's checkpoints do not serve this one, if that is worth a word."""
        was, run_id = identity_in(folder), folder.name
        if _stage(was) != _stage(self._identity):
            return []
        record, equal = self._record(run_id), folder.parent == self._folder
        finished = bool(states_in(folder, FINISHED)) or _is_finished(record)
        if finished and not equal:
            return []
        own = [*read_states(states_in(folder, *KINDS))] if equal else []
        if equal and epoch >= count and not any(one.wanted == self._wanted for one in own):
            return [f"only {count} are wanted"]
        if finished:
            return []
        if record is None:
            return ["its record is gone or damaged"]
        if self._goes_on(run_id):
            gone = f"if it does not, say 'runrecord reap {run_id}'"
            return [f"it still runs, for all that can be told here; {gone}"] if equal else []
        if equal:
            lacks = all(one.length > record.length for one in own)
            return ["its record lacks what was logged by then"] if lacks else []
        return differences(was, self._identity) or ["something secret was another"]

    def _record(self, run_id: str, length: int = 0) -> Record | None:
        """A run's record, if it can be had and has all that it had at the checkpoint."""
        try:
            record = Record(files_in(run_dir(self._root, run_id)))
        except (RecordRefused, OSError):
            return None
        return record if record.length >= length else None

    def _goes_on(self, run_id: str) -> bool:
        folder = run_dir(self._root, run_id)
        if self._follows and was_claimed_since(folder, process_began() - _TOGETHER):
            return False
        return is_running(folder)

    def _may_go_on(self, folder: Path) -> bool:
        record = self._record(folder.name) if states_in(folder, UNFINISHED) else None
        return record is not None and not _is_finished(record)


def _is_finished(record: Record | None) -> bool:
    return record is not None and record.end is not None and record.end.status == "FINISHED"


def folders_of(root: Path, run_id: str) -> list[Path]:
    """The folders that hold a run's checkpoints."""
    return [*(state_folder(root) / "checkpoints").glob(f"*/{run_id}/")]


def _stage(identity: Identity) -> object:
    return identity.get("stage", {}).get("name")
