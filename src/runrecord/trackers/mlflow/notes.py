"""What MLflow is known to show, noted beside the runs: that nothing is to do, files alone tell.

One file for each store and experiment in `.runrecord/shown/`, a line of JSON for each thing noted.
It may be removed at any time: MLflow is asked, then.
"""

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from runrecord.files import sha256, write_atomic
from runrecord.store.runs import state_folder
from runrecord.trackers.mlflow.store import (
    database_of,
    experiment_name,
    is_embedded,
    tracking_uri,
)


@dataclass(frozen=True)
class Noted:
    """What is known of a run there."""

    run_id: str
    """MLflow's."""
    events: int
    """How many of its record's events it shows for certain: 0 of one that has only begun."""
    time: int
    """When it began: two runs that share an id have two."""
    removed: bool = False
    """It was shown once, and a person removed it."""


class Notes:
    """What is noted of one experiment in one tracking store."""

    def __init__(self, root: Path) -> None:
        """Read it; nothing where it cannot be read."""
        self._root, uri = root, tracking_uri(root)
        self._database = database_of(uri) if is_embedded(uri) else None
        name = sha256(f"{uri} {experiment_name(root)}".encode())[:16]
        self._file = state_folder(root) / "shown" / f"{name}.jsonl"
        self.runs: dict[str, Noted] = {}
        """By the records' ids."""
        self._experiment, self._store = "", ""
        with suppress(OSError):
            for line in self._file.read_bytes().splitlines():
                with suppress(ValueError, TypeError, KeyError):  # of a line that is half written
                    self._read(json.loads(line))

    def _read(self, line: dict[str, object]) -> None:
        match line:
            case {"experiment": str(key)}:
                self._experiment = key
            case {"store": str(stamp)}:
                self._store = stamp
            case {"run": str(name), "id": str(run_id), "events": int(events), "time": int(time)}:
                self.runs[name] = Noted(run_id, events, time, line.get("removed") is True)

    def unchanged(self) -> bool:
        """Is the store as it was when it was last looked at? Of a server that cannot be known."""
        return bool(self._store) and self._store == self._stamp()

    def of(self, experiment: str) -> None:
        """Be of that experiment: what was noted of another one with its name is forgotten."""
        if self._experiment != experiment:
            self.runs, self._store = {}, ""
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
            self._experiment = experiment
            self._append([{"experiment": experiment}])

    def add(self, name: str, noted: Noted) -> None:
        """Note what a run shows."""
        if self.runs.get(name) != noted:
            self.runs[name] = noted
            self._append([_line(name, noted)])

    def looked_at(self) -> None:
        """All that is noted is so in the store as it is now."""
        if self._database is not None:
            with suppress(sqlite3.Error), closing(sqlite3.connect(self._database)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else its end changes it
        if self._store != (stamp := self._stamp()):
            self._store = stamp
            self._append([{"store": stamp}])

    def tidy(self) -> None:
        """Leave one line for each thing."""
        lines: list[dict[str, object]] = [
            {"experiment": self._experiment},
            {"store": self._store},
        ]
        lines += [_line(name, noted) for name, noted in self.runs.items()]
        with suppress(OSError):
            write_atomic(self._file, _text(lines))

    def _append(self, lines: Iterable[dict[str, object]]) -> None:
        with suppress(OSError):  # it is asked again, then
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab", buffering=0) as file:
                file.write(_text(lines))

    def _stamp(self) -> str:
        """The sizes and times of MLflow's files here; nothing without a database."""
        if self._database is None or not self._database.exists():
            return ""
        log = Path(f"{self._database}-wal")
        files = [self._database, self._root / "mlruns", self._root / "mlruns" / "models"]
        with suppress(OSError):
            files += [log] if log.stat().st_size else []
        found = []
        for file in files:
            with suppress(OSError):
                stat = file.stat()
                found.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
        return ", ".join(found)


def _line(name: str, noted: Noted) -> dict[str, object]:
    line = {"run": name, "id": noted.run_id, "events": noted.events, "time": noted.time}
    return line | ({"removed": True} if noted.removed else {})


def _text(lines: Iterable[dict[str, object]]) -> bytes:
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()
