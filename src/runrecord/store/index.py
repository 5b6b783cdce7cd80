"""What the records on this machine say, a row each: a question about many of them opens none.

It may be thrown away at any time. A row counts while its record's `run.json` and `events.jsonl`
have the size and the time that they had when they were read; the files that these name are looked
at when the record itself is. Where it cannot be written, it is made anew in memory.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from runrecord.record.events import RunStarted, Status, files_of
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import EVENTS, START, RecordRefused, read_start
from runrecord.record.view import RunView, view
from runrecord.store.files import sha256
from runrecord.store.paths import RECORDS
from runrecord.store.runs import STORES, state_folder

_VERSION = 2
"""Raised with any change of the tables or of what is in them: others' are made anew."""
_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY, folder BLOB UNIQUE, stamp TEXT, sealed INTEGER, id TEXT, stage TEXT,
    host TEXT, time INTEGER, last INTEGER, length INTEGER, cut_off INTEGER, status TEXT,
    origin TEXT, git_commit TEXT, experiment TEXT, model TEXT, start TEXT, metrics TEXT);
CREATE INDEX IF NOT EXISTS by_stage ON runs (stage);
CREATE TABLE IF NOT EXISTS evaluated (
    run INTEGER REFERENCES runs ON DELETE CASCADE, sha256 TEXT, metrics TEXT);
CREATE INDEX IF NOT EXISTS evaluated_by ON evaluated (run);
CREATE INDEX IF NOT EXISTS evaluations ON evaluated (sha256);
CREATE TABLE IF NOT EXISTS wrote (run INTEGER REFERENCES runs ON DELETE CASCADE, digest INTEGER);
CREATE INDEX IF NOT EXISTS wrote_by ON wrote (run);
CREATE INDEX IF NOT EXISTS writers ON wrote (digest);
PRAGMA user_version = {version};
COMMIT;
"""
_START, _EVENTS = f"/{START}".encode(), f"/{EVENTS}".encode()
_LARGEST = 2**63 - 1  # of SQLite's whole numbers
_PATIENCE = 5.0  # seconds that another process may take to write it
_AT_ONCE = 200  # records that are read between two writes


@dataclass(frozen=True)
class Told:
    """What a record says of its run, in short."""

    id: str
    stage: str
    host: str
    time: int
    last: int
    """Its last sign of life."""
    length: int
    """How many events there are."""
    cut_off: bool
    status: Status | None
    """How it ended, if it did."""
    origin: str
    """The digest of how it began: two runs that share an id have two."""
    git_commit: str
    experiment: str


@dataclass(frozen=True)
class Known:
    """A record on this machine, and what it says."""

    folder: Path
    sealed: bool
    """It is in the workspace, and not in the run store: no process can still be writing it."""
    told: Told


def told_by(record: Record) -> Told:
    """What a record says of its run."""
    start, end = record.start, record.end
    return Told(
        start.id,
        start.stage,
        start.host,
        start.time,
        record.last_sign_of_life,
        record.length,
        record.cut_off,
        end.status if end else None,
        sha256(_json(start).encode()),
        start.tags.get("git.commit", ""),
        start.tags.get("dvc.experiment", ""),
    )


class RunIndex:
    """The index of the run store of a main repository, and of the records in its workspace."""

    def __init__(self, root: Path) -> None:
        """Bring it up to date."""
        self._root = root
        self._file = state_folder(root) / "index.db"
        self.refused: list[tuple[str, Exception]] = []
        """The folders of records that cannot be used, and why."""
        try:
            self._open(str(self._file))
        except sqlite3.OperationalError:  # it may be read only, or another process holds it
            self._open(":memory:")
        except sqlite3.DatabaseError:
            self._make_anew()

    def all(self) -> list[Known]:
        """Every record."""
        rows = self._ask(
            "SELECT folder, sealed, id, stage, host, time, last, length, cut_off, status, origin, "
            "git_commit, experiment FROM runs ORDER BY sealed, folder"
        )
        return [Known(self._path(name), bool(sealed), Told(*told)) for name, sealed, *told in rows]

    def writers(self, digest: str) -> list[Path]:
        """The records of runs that may have written what has that SHA-256, damaged ones too."""
        rows = self._ask(
            "SELECT folder FROM runs WHERE metrics IS NULL "
            "OR number IN (SELECT run FROM wrote WHERE digest = ?) ORDER BY sealed, folder",
            _short(digest),
        )
        return [self._path(folder) for (folder,) in rows]

    def evaluations(self, model: str) -> list[Path]:
        """The records of runs that evaluated the model with that SHA-256, the newest first."""
        rows = self._ask(
            "SELECT folder FROM evaluated JOIN runs ON run = number WHERE sha256 = ? "
            "ORDER BY time DESC, sealed DESC",
            model,
        )
        return [self._path(folder) for (folder,) in rows]

    def finished(
        self, stage: str
    ) -> Iterator[tuple[RunStarted, Mapping[str, float], Mapping[str, float]]]:
        """How each finished run of a stage began, its last metrics, and those of its model.

        The latter are what the newest evaluation says.
        """
        rows = self._ask(
            "SELECT start, metrics, model FROM runs "
            "WHERE stage = ? AND status = 'FINISHED' AND metrics IS NOT NULL ORDER BY time, id",
            stage,
        )
        tested = cache(self._tested)
        for start, metrics, model in rows:
            yield read_start(start.encode()), json.loads(metrics), tested(model)

    def _tested(self, model: str | None) -> Mapping[str, float]:
        rows = self._ask(
            "SELECT evaluated.metrics FROM evaluated JOIN runs ON run = number WHERE sha256 = ? "
            "ORDER BY time DESC LIMIT 1",
            model,
        )
        return json.loads(rows[0][0]) if rows else {}

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()

    def _path(self, folder: bytes) -> Path:
        return self._root / os.fsdecode(folder)

    def _ask(self, query: str, *given: object) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, given).fetchall()
        except (sqlite3.ProgrammingError, sqlite3.OperationalError):
            raise
        except sqlite3.DatabaseError:  # it is damaged
            self._make_anew()
            return self._connection.execute(query, given).fetchall()

    def _make_anew(self) -> None:
        for ending in ("", "-journal"):
            with suppress(OSError):
                Path(f"{self._file}{ending}").unlink()
        try:
            self._open(str(self._file))
        except sqlite3.Error:
            self._open(":memory:")

    def _open(self, database: str) -> None:
        self._connection = connection = sqlite3.connect(database, timeout=_PATIENCE)
        connection.execute("PRAGMA foreign_keys = ON")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(_TABLES.format(version=_VERSION))
        elif version != _VERSION:
            raise sqlite3.DatabaseError("it is another version's")
        self._refresh()

    def _refresh(self) -> None:
        """Read what is new or has changed; forget what is gone."""
        self.refused = []
        there = {folder: (stamp, sealed) for folder, stamp, sealed in _stamped(self._root)}
        had: dict[bytes, str] = dict(self._connection.execute("SELECT folder, stamp FROM runs"))
        stale = [(folder,) for folder, stamp in had.items() if there.get(folder, ("",))[0] != stamp]
        if stale:
            with self._connection:
                self._connection.executemany("DELETE FROM runs WHERE folder = ?", stale)
        new = [folder for folder, (stamp, _) in there.items() if had.get(folder) != stamp]
        for first in range(0, len(new), _AT_ONCE):
            read = []
            for folder in new[first : first + _AT_ONCE]:
                try:
                    read.append((folder, *there[folder], *_read(self._path(folder))))
                except (RecordRefused, OSError) as error:
                    self.refused.append((str(self._path(folder)), error))
            with self._connection:
                for one in read:
                    self._add(*one)

    def _add(
        self,
        folder: bytes,
        stamp: str,
        sealed: bool,
        record: Record,
        seen: RunView | None,
        digests: Iterable[str],
    ) -> None:
        metrics = json.dumps(seen.last_values()) if seen else None
        row = (folder, stamp, sealed, *astuple(told_by(record)), seen and seen.model)
        row += (_json(record.start), metrics)
        cursor = self._connection.execute(
            f"INSERT OR REPLACE INTO runs VALUES (NULL{', ?' * len(row)})",  # noqa: S608
            row,
        )
        number = cursor.lastrowid
        self._connection.executemany(
            "INSERT INTO wrote VALUES (?, ?)", {(number, _short(digest)) for digest in digests}
        )
        self._connection.executemany(
            "INSERT INTO evaluated VALUES (?, ?, ?)",
            [
                (number, one.sha256, json.dumps(dict(one.metrics)))
                for one in (seen.evaluated.values() if seen else ())
            ],
        )


def _read(folder: Path) -> tuple[Record, RunView | None, set[str]]:
    """A record, what it tells, and the SHA-256 of what its run wrote; nothing of damaged lines.

    Raises:
        RecordRefused: it cannot be used at all.
    """
    record = Record(files_in(folder))
    if abs(record.last_sign_of_life) > _LARGEST:
        raise RecordRefused(f"the last line of {EVENTS} is damaged.")
    outs = set(record.end.outs.values()) if record.end else set()
    try:
        events = list(record.events(files=False))
    except RecordRefused:
        return record, None, outs
    files = {file.sha256 for event in events for file in files_of(event)}
    return record, view(record, events), outs | files


def _stamped(root: Path) -> Iterator[tuple[bytes, str, bool]]:
    """The folder of each record (hidden: half sealed), its files' sizes and times, is it sealed?"""
    for place in (*STORES, RECORDS.rstrip("/")):
        with suppress(FileNotFoundError), os.scandir(os.fsencode(root / place)) as entries:
            for entry in (one for one in entries if not one.name.startswith(b".")):
                with suppress(OSError):
                    stamp = _stamp(entry.path + _START)
                    with suppress(FileNotFoundError):
                        stamp += _stamp(entry.path + _EVENTS)
                    yield os.fsencode(f"{place}/") + entry.name, stamp, place not in STORES


def _stamp(path: bytes) -> str:
    found = os.stat(path)
    return f"{found.st_size} {found.st_mtime_ns} "


def _json(start: RunStarted) -> str:
    return json.dumps(asdict(start), sort_keys=True)


def _short(digest: str) -> int:
    """The beginning of a SHA-256, as SQLite keeps numbers."""
    return int.from_bytes(bytes.fromhex(digest)[:8], "big", signed=True)
