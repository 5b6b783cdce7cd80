"""Checkpoints: a run that was stopped goes on where it was, and ends with the same bytes.

Kept under the main repository's root, a folder a run, in one that is named by all that the result
depends on: a run with another parameter, code, library or kind of device never takes them. What
that was is kept beside them, so that it can be said why.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from runrecord.events import Event, Logged, ModelEvaluated, ModelSaved
from runrecord.files import sha256
from runrecord.provenance.identity import Identity, differences, redacted
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import FORMAT, RecordRefused
from runrecord.run_store import is_running, run_dir, state_folder
from runrecord.saved_states import (
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

_UNFINISHED_KEPT = 5  # of runs that nobody went on with
_FINISHED_KEPT = 5  # of runs that a longer one can go on from
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
    logged: Set[tuple[str, str, int]]
    """The kind, title and step of all that the run has on record that goes on from here."""

    def events(self) -> Iterator[Event]:
        """What the earlier run logged in its epochs up to this one."""
        found = islice(self.record.events(files=False), self.saved.begun, self.saved.length)
        return filter(None, map(self.record.usable, found))


class Checkpoints:
    """The checkpoints of one stage: of every run that would come to the same result."""

    def __init__(
        self, root: Path, identity: Identity, wanted: Mapping[str, Any] | None = None
    ) -> None:
        """Those of a main repository's runs.

        Args:
            root: of the repository.
            identity: all that the result depends on, as JSON values.
            wanted: the params that only say how long the run is to go on; none of the identity.
        """
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
        folders = sorted(self._run_folders(), key=time_of, reverse=True)
        finished = [one for one in folders if states_in(one, FINISHED)]
        stopped = (
            one for one in folders if states_in(one, UNFINISHED) and self._may_go_on(one.name)
        )
        useful = {*finished[:_FINISHED_KEPT], *islice(stopped, _UNFINISHED_KEPT)}
        for folder in {*folders} - useful:
            if not self._goes_on(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self._all.glob("*/"):
            with suppress(OSError):  # it is not empty
                folder.rmdir()

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
                logged = _logged(islice(record.events(files=False), first, last))
            except (RecordRefused, OSError) as error:
                refused.add(saved.run_id)
                print(f"warning: {saved.run_id} is not gone on with: {error}", file=sys.stderr)
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
        return record if record.format == FORMAT and record.length >= length else None

    def _goes_on(self, run_id: str) -> bool:
        return is_running(run_dir(self._root, run_id))

    def _may_go_on(self, run_id: str) -> bool:
        record = self._record(run_id)
        return record is not None and not _is_finished(record)


def _is_finished(record: Record | None) -> bool:
    return record is not None and record.end is not None and record.end.status == "FINISHED"


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


def folders_of(root: Path, run_id: str) -> list[Path]:
    """The folders that hold a run's checkpoints."""
    return [*(state_folder(root) / "checkpoints").glob(f"*/{run_id}/")]


def _stage(identity: Identity) -> object:
    return identity.get("stage", {}).get("name")
