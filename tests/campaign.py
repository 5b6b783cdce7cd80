"""A stop at every write: `make campaign`.

    python tests/campaign.py                  # a thousand stops: about an hour on two cores
    python tests/campaign.py --stops 60 --seed 1
    python tests/campaign.py --again "train|kill|rename|run.json|1"    # one, told in full
    python tests/campaign.py --write                # puts the outcome into the docs

Each program runs once undisturbed, and every call of it that writes is noted: its name, where it
writes, the how-manyth of these it is. Then it runs again and again in a fresh copy of its
repository, each time stopped at one of those calls, or failed by the disk from there on. What is on
the disk is looked at; the same command is given again, undisturbed; and all has to be as if nobody
had stopped it.
"""

import argparse
import errno
import os
import platform
import random
import re
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn, Self

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - what children need is imported once
import tensorboardX.event_file_writer  # noqa: F401
from stops import (
    SUPPORTED,
    WHY_NOT,
    Call,
    Program,
    is_write,
    refusal,
    run,
    run_stopped,
    tear,
)
from workspaces import EXPERIMENT, RECORD_ONLY, ROOT, TOY, Workspace, new_project

import runrecord.cli
from runrecord.files import sha256, write_atomic
from runrecord.git.commands import git
from runrecord.record.events import RecordRefused
from runrecord.record.reader import Record, files_in
from runrecord.run.process import run_stage
from runrecord.store.runs import STORE, run_dirs
from runrecord.trackers.player import Store

PAGE = ROOT / "docs" / "runrecord" / "promises.md"
PATIENCE = 120.0  # seconds that a stopped program may take
LIVE = "live"

PLACES = (
    (r"\.runrecord/runs/[^/]+/lock", "lock"),
    (r"\.runrecord/runs/[^/]+/\.?run\.json.*", "run.json"),
    (r"\.runrecord/runs/[^/]+/events\.jsonl", "events.jsonl"),
    (r"\.runrecord/runs(/.*)?", "files of the record"),
    (r"\.runrecord/checkpoints(/.*)?", "checkpoints"),
    (r"\.runrecord(/.*)?", "other state"),
    (r"records(/.*)?", "sealed record"),
    (r"mlflow\.db.*", "MLflow's database"),
    (r"mlruns(/.*)?", "MLflow's artifacts"),
    (r"tensorboard(/.*)?", "TensorBoard"),
    (r"\.git/.*", "Git"),
    (r"\.dvc/cache(/.*)?", "DVC's cache"),
    (r"\.dvc/.*|dvc\.lock.*|.*\.gitignore", "DVC"),
    (r"(models/|metrics/|\.)*(ae|model|metrics|report)\b.*", "outs"),
)


@cache
def place_of(path: str, live: Path) -> str:
    """What a path is to a reader."""
    folder, _, rest = path.removeprefix(f"{live}/").partition("/")
    if folder != EXPERIMENT:
        return {"site": "DVC"}.get(folder, "temporary folder")
    return next((name for form, name in PLACES if re.fullmatch(form, rest)), "other files")


@dataclass(frozen=True)
class Kind:
    """A way in which a program is stopped, or its disk fails."""

    exits: int
    """Of a stage by itself; that it ends well all the same is always allowed."""
    act: Callable[[int, Call], object] = lambda _main, _call: None
    """What happens at the call, to the program's process or the one that makes it."""
    opens: Callable[[], tuple[int, int]] | None = None
    """The console, ours and its end, which is closed at the call."""
    error: int = 0
    """That the call fails with."""
    lasts: bool = False
    """So do all that follow."""

    @property
    def signalled(self) -> bool:
        """Is the program told to end, and can say how it ended?"""
        return self.exits > 128 and self.opens is not os.pipe


def _power(main: int, _call: Call) -> None:
    os.killpg(main, signal.SIGKILL)


def _torn(main: int, call: Call) -> None:
    tear(call)
    os.killpg(main, signal.SIGKILL)


KINDS = {
    "kill": Kind(-9, lambda _main, call: os.kill(call.process, signal.SIGKILL)),
    "power": Kind(-9, _power),  # all processes at once
    "torn": Kind(-9, _torn),  # half of that write is on the disk
    "term": Kind(143, lambda main, _call: os.kill(main, signal.SIGTERM)),
    "ctrl-c": Kind(130, lambda main, _call: os.killpg(main, signal.SIGINT)),
    "hangup": Kind(129, opens=os.openpty),
    "console": Kind(128 + signal.SIGPIPE, opens=os.pipe),
    "full once": Kind(1, error=errno.ENOSPC),
    "full": Kind(1, error=errno.ENOSPC, lasts=True),
    "EIO once": Kind(1, error=errno.EIO),
    "EIO": Kind(1, error=errno.EIO, lasts=True),
}


@dataclass(frozen=True)
class Named:
    """What happens to a program; said, and read again, as its fields."""

    program: str

    def __str__(self) -> str:
        return "|".join(map(str, vars(self).values()))

    @classmethod
    def read(cls, text: str) -> Self:
        kinds: Iterable[Any] = [one.type for one in fields(cls)]
        return cls(*(kind(part) for kind, part in zip(kinds, text.split("|"), strict=True)))


@dataclass(frozen=True)
class Stop(Named):
    """One stop: of a program, at the nth call of a name in a place."""

    kind: str
    call: str
    place: str
    nth: int


@dataclass(frozen=True)
class Result:
    """What came of a stop, and whether it was as it should be."""

    stop: Any
    outcome: str
    faults: list[str]
    said: str
    seconds: float


@dataclass(frozen=True)
class Job:
    """A program of the campaign."""

    main: Callable[[], object]
    share: int
    """Of a hundred stops."""
    template: str = "trained"
    environment: Mapping[str, str] = field(default_factory=dict)
    stage: str = ""
    outs: tuple[str, ...] = ()
    by_dvc: bool = False
    then: str = ""
    """What follows, before anybody looks."""

    @property
    def record(self) -> str:
        """The stage's sealed record."""
        return f"records/{(self.stage or 'train').removeprefix('train-')}"


def _become(*command: str) -> NoReturn:
    os.execvp(command[0], command)


def _train() -> None:
    def main() -> None:
        runpy.run_path("train.py", run_name="__main__")

    sys.argv = ["train.py"]
    run_stage(main)


def _runrecord(*arguments: str) -> None:
    sys.argv = ["runrecord", *arguments]
    runrecord.cli.main()


_WRITE_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_BY_HAND = {"DVC_STAGE": "train"}
_TOY: dict[str, Any] = {"stage": "train", "outs": ("model.bin", "metrics.json")}
JOBS = {
    "train": Job(_train, 45, environment={**_BY_HAND, **RECORD_ONLY}, **_TOY),
    "train and show": Job(_train, 25, environment=_BY_HAND, **_TOY),
    "first train": Job(_train, 5, "new", environment={**_BY_HAND, **RECORD_ONLY}, **_TOY),
    "dvc repro": Job(
        partial(_become, "dvc", "repro", "train"), 9, environment=RECORD_ONLY, by_dvc=True, **_TOY
    ),
    "sync": Job(partial(_runrecord, "sync", "--tensorboard"), 5, "kept"),
    "reap": Job(partial(_runrecord, "reap"), 4, "kept", then="sync"),
    "gc": Job(partial(_runrecord, "gc", "--keep", "1", "--yes"), 3, "kept"),
    "report": Job(partial(_runrecord, "report"), 2, "kept"),
    "verify": Job(partial(_runrecord, "verify", "records/train"), 2, "kept"),
}


FILES = TOY | {"params.yaml": "train: {epochs: 3, lr: 0.5}\n"}


class Stand:
    """Where programs run: a folder whose copies of repositories lie at one path."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.live = base / LIVE
        self.repository = self.live / EXPERIMENT
        self.output = base / "output"
        self._before: dict[str, State] = {}

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "TMPDIR": str(self.live / "tmp"),
            "DVC_SITE_CACHE_DIR": str(self.live / "site"),
            "DVC_NO_ANALYTICS": "1",
        }
        return Workspace(self.repository).environment | own

    def program(self, main: Callable[[], object], **more: str) -> Program:
        """A program here."""
        return Program(main, self.repository, self.environment | more)

    def do(self, main: Callable[[], object], **more: str) -> tuple[int, str]:
        """Run it undisturbed; its exit status, and what it said."""
        with self.output.open("wb") as output:
            status = run(self.program(main, **more), output.fileno())
        return status, self.output.read_text(errors="replace")

    def must(self, main: Callable[[], object], **more: str) -> str:
        """The same, where it has to end well."""
        status, said = self.do(main, **more)
        assert status == 0, said
        return said

    def reset(self, name: str) -> None:
        """Be as the template was."""
        shutil.rmtree(self.live, ignore_errors=True)
        subprocess.run(["cp", "-a", self.base / name, self.live], check=True)

    def before(self, name: str) -> "State":
        """Be as the template of a program was; what is in it."""
        self.reset(JOBS[name].template)
        if name not in self._before:
            self._before[name] = state_of(self, JOBS[name])
        return self._before[name]

    def copy(self, to: Path, names: Iterable[str]) -> "Stand":
        """The same elsewhere: the addresses in MLflow's database follow their folder."""
        other = Stand(to)
        addresses = (("experiments", "artifact_location"), ("runs", "artifact_uri"))
        for name in names:
            shutil.copytree(self.base / name, to / name, symlinks=True)
            database = to / name / EXPERIMENT / "mlflow.db"
            with closing(sqlite3.connect(database)) as connection, connection:
                for table, column in (*addresses, ("logged_models", "artifact_location")):
                    change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
                    connection.execute(change, [str(self.live), str(other.live)])
        return other


def build(stand: Stand, names: Iterable[str]) -> None:
    """Make the templates: repositories with an earlier run, in MLflow and committed."""
    for name in names:
        shutil.rmtree(stand.live, ignore_errors=True)
        for folder in ("tmp", "site"):
            (stand.live / folder).mkdir(parents=True)
        stand.repository.mkdir()
        workspace = new_project(stand.repository, FILES)
        _repro(stand)
        stand.must(JOBS["sync"].main)
        if name == "kept":
            _live_on(stand, workspace)
        else:
            workspace.set_params(train__lr=0.25)
        if name == "new":
            shutil.rmtree(stand.repository / ".runrecord")
        shutil.copytree(stand.live, stand.base / name, symlinks=True)


def _live_on(stand: Stand, workspace: Workspace) -> None:
    """More runs, which MLflow does not show; the last one is dead."""
    for rate in (0.25, 0.125):
        workspace.set_params(train__lr=rate)
        _repro(stand)
    workspace.set_params(train__lr=1.0)
    dead = Stop("train", "kill", "write", "events.jsonl", 3)
    assert stopped(stand, dead)[0] == -signal.SIGKILL
    workspace.run("git", "checkout", "--quiet", "params.yaml")


def _repro(stand: Stand) -> None:
    stand.must(partial(_become, "dvc", "repro", "train"), **RECORD_ONLY)
    Workspace(stand.repository).commit("results")


def is_at(call: Call, stop: Stop, live: Path) -> bool:
    """Is that a call of the kind that is to be stopped, and one that can fail so?"""
    if (call.name, place_of(call.path, live)) != (stop.call, stop.place):
        return False
    if stop.kind == "torn":
        return is_write(call)
    error = KINDS[stop.kind].error
    return not error or bool(refusal(error, call))


def stopped(stand: Stand, stop: Stop) -> tuple[int, str, Call | None, bool]:
    """Run a program with a stop: its exit status, what it said, the call; did its own process die?

    Else one that it had started was killed.
    """
    job, kind = JOBS[stop.program], KINDS[stop.kind]
    ours, its = kind.opens() if kind.opens else (-1, os.open(stand.output, _WRITE_NEW))
    if kind.opens:
        os.set_blocking(ours, False)
    heard, reached, left = bytearray(), list[tuple[int, Call]](), stop.nth

    def on_call(main: int, call: Call) -> int:
        nonlocal left, ours
        if ours >= 0:
            with suppress(BlockingIOError):
                heard.extend(os.read(ours, 2**16))
        if reached:
            return refusal(kind.error, call) if kind.lasts else 0
        left -= is_at(call, stop, stand.live)
        if left:
            return 0
        reached.append((main, call))
        if ours >= 0:
            os.close(ours)
            ours = -1
        kind.act(main, call)
        return refusal(kind.error, call)

    program = stand.program(job.main, **job.environment)
    status = run_stopped(program, its, stand.live, on_call, PATIENCE)
    os.close(its)
    if ours >= 0:
        os.close(ours)
    said = heard.decode(errors="replace") if kind.opens else stand.output.read_text()
    main, call = reached[0] if reached else (0, None)
    return status, said, call, call is not None and (call.process == main or stop.kind != "kill")


def calls_of(stand: Stand, name: str) -> list[Call]:
    """Every call that writes of a program that nobody stops."""
    stand.reset(JOBS[name].template)
    calls: list[Call] = []

    def note(_main: int, call: Call) -> int:
        calls.append(call)
        return 0

    program = stand.program(JOBS[name].main, **JOBS[name].environment)
    with stand.output.open("wb") as output:
        status = run_stopped(program, output.fileno(), stand.live, note, PATIENCE)
    assert status == 0, stand.output.read_text()
    return calls


@dataclass(frozen=True)
class State:
    """What is in a repository, by what matters."""

    records: Mapping[str, Mapping[str, str]]
    """Of each run in the store, its files' SHA-256."""
    shown: Set[tuple[Any, ...]]
    """All that MLflow shows."""
    files: Mapping[str, bytes]
    """Outs, the report, and which runs TensorBoard has."""
    sealed: str
    """The run whose record is sealed."""
    git: bytes


def state_of(stand: Stand, job: Job) -> State:
    """What is in the repository now."""
    root = stand.repository
    records = {folder.name: _hashes(folder) for folder in run_dirs(root)}
    today = re.compile(rb"[0-9-]{10} [0-9:]{5} UTC")
    there = [name for name in (*job.outs, "report.html") if (root / name).exists()]
    files = {name: today.sub(b"today", (root / name).read_bytes()) for name in there}
    files |= {path.name: b"" for path in root.glob("tensorboard/*/*") if any(path.iterdir())}
    sealed = sealed_in(root / job.record, job.by_dvc)
    name = sealed.start.id if sealed else ""
    return State(records, shown_in(root), files, name, git_of(root, job))


def _hashes(folder: Path) -> dict[str, str]:
    return {name: sha256(path) for name, path in files_in(folder).items()}


_SHOWN = (
    ("runs", "run_uuid", "status, start_time, end_time"),
    ("tags", "run_uuid", "key, value"),
    ("params", "run_uuid", "key, value"),
    ("metrics", "run_uuid", "key, step, timestamp, value"),
    ("logged_models", "source_run_id", "name, status"),
)
"""MLflow's tables, how they name a run, and what they tell of it."""
_OWN = re.compile(r".*(model\.id|run_id)|mlflow\.note\.content|description\.sha256|verified\.time")
"""Tags with ids of MLflow's own, and the time of a verification."""


def shown_in(root: Path) -> set[tuple[Any, ...]]:
    """All that MLflow has of each run, by the table and the record's id; nothing of it twice."""
    if not (root / "mlflow.db").exists():
        return set()
    found: list[tuple[Any, ...]] = []
    with closing(sqlite3.connect(root / "mlflow.db", timeout=20)) as database:
        problems = [row[0] for row in database.execute("PRAGMA integrity_check")]
        assert problems == ["ok"], problems
        named = "SELECT run_uuid, value FROM tags WHERE key = 'record.id'"
        records = dict(database.execute(named).fetchall())
        for table, key, columns in _SHOWN:
            rows = database.execute(f"SELECT {key}, {columns} FROM {table}")
            found += [(table, records[run], *row) for run, *row in rows if run in records]
    for name, record in records.items():
        folder = root / "mlruns" / name
        files = [path for path in folder.rglob("*") if path.is_file()]
        found += [("file", record, str(path.relative_to(folder))) for path in files]
    found = [row for row in found if not (row[0] == "tags" and _OWN.fullmatch(row[2]))]
    assert len({*records.values()}) == len(records), f"MLflow shows one twice: {records}"
    twice = [row for row, count in Counter(found).items() if count > 1]
    assert not twice, f"MLflow shows twice: {twice}"
    return {*found}


def git_of(root: Path, job: Job) -> bytes:
    """HEAD, the index, and what differs from it but for what the stage writes."""
    own = {*job.outs, "dvc.lock", "report.html", ".runrecord/.gitignore"}
    status = ("status", "--porcelain", "-z", "--untracked-files=all")
    changed = git(root, "--no-optional-locks", *status).split(b"\0")
    left = b"\n".join(line for line in changed if line[3:].decode() not in own)
    return git(root, "rev-parse", "HEAD") + git(root, "ls-files", "--stage") + left


_RUBBISH = re.compile(r"\..+\.[a-z0-9_]{8}|.+\.(new|old)|new-database|gone|.+\.lock")


def rubbish_in(root: Path) -> list[str]:
    """What is left of writes that did not end."""
    state = (".runrecord", "records", "metrics", "models", ".git")
    found = [path for folder in state for path in (root / folder).rglob("*")]
    found += root.iterdir()
    born = {folder / "run.json" for folder in (root / STORE).iterdir()}
    mine = ("number.lock", "seal.lock", "sync.lock", "mlflow.lock", "dvc.lock", "requirements.lock")
    left = [path for path in found if _RUBBISH.fullmatch(path.name) and path.name not in mine]
    left += [path for path in born if not path.exists()]
    return [str(path.relative_to(root)) for path in left]


def attempt(stand: Stand, stop: Stop, undisturbed: State) -> Result:
    """One stop, and all that is looked at afterwards."""
    began = time.monotonic()
    before = stand.before(stop.program)
    status, said, reached, own = stopped(stand, stop)
    faults: list[str] = []
    told = f"exit status {status}\n{said}\nand again:\n"
    try:
        if reached is None:
            outcome = "not reached"
            faults += [f"it ends with {status}"] if status else []
        else:
            faults += right_then(stand, stop, status, said, before, undisturbed, own)
            outcome, again, more = done_again(stand, stop, status, undisturbed)
            told += again
            faults += [*more, *(f"left behind: {name}" for name in rubbish_in(stand.repository))]
    except (AssertionError, OSError, sqlite3.Error, RecordRefused) as error:
        outcome = "fault"
        faults.append(f"{type(error).__name__}: {error}")
    return Result(stop, outcome, faults, told, time.monotonic() - began)


def right_then(
    stand: Stand,
    stop: Stop,
    status: int,
    said: str,
    before: State,
    undisturbed: State,
    own: bool,
) -> Iterator[str]:
    """What is not as it should be on the disk, once a program was stopped."""
    root, job, kind = stand.repository, JOBS[stop.program], KINDS[stop.kind]
    runs = {folder.name: Record(files_in(folder)) for folder in run_dirs(root)}
    for name, record in runs.items():
        then, now = before.records.get(name), _hashes(root / STORE / name)
        if then is None and (damage := damage_of(record)):
            yield f"the record of {name} is damaged: {damage}"
        # `reap` may have closed it, or written half of the line that does.
        closed = "events.jsonl" not in (then or {}) or record.end or record.cut_off
        if then and now != then and not (closed and now.keys() >= then.keys()):
            yield f"the record of {name} is another"
    if job.stage and not before.shown <= (shown := shown_in(root)):
        yield f"MLflow shows earlier runs otherwise: {sorted(before.shown - shown)}"
    if git_of(root, job) != before.git and not job.by_dvc:
        yield f"Git: {before.git.decode()} became {git_of(root, job).decode()}"
    if locks := [str(path) for path in (root / ".git").rglob("*.lock")]:
        yield f"left in Git: {locks}"
    for name in job.outs:
        content = (root / name).read_bytes() if (root / name).exists() else None
        if content not in (None, before.files.get(name), undisturbed.files[name]):
            yield f"{name} is neither the old one nor the new one"
    if not job.stage or job.by_dvc:  # its exit status, and what it leaves of outs, are its own
        return
    # A script's own write that fails names no file: its traceback says where.
    in_script = re.search(r'train\.py", line \d+, in <module>\n(    .*\n)*OSError', said)
    if "Traceback" in said and not in_script:
        yield "it prints a traceback"
    if status not in (0, kind.exits):
        yield f"exit status {status}"
    new = [record for name, record in runs.items() if name not in before.records]
    ended = new[-1].end.status if new and new[-1].end else None
    sealed = sealed_in(root / job.record)
    is_new = sealed is not None and sealed.start.id != before.sealed
    if status == 0:
        if not is_new:
            yield "it ends well, and its record is not sealed"
        if ended != "FINISHED" and not kind.error:
            yield f"it ends well, and its record says {ended}"
        yield from _other_outs(root, job, undisturbed, "it ends well")
    elif kind.signalled:
        if is_new:
            yield "its record is sealed, and its exit status says that it was stopped"
        if new and own and ended != "KILLED":
            yield f"its record says {ended}"


def _other_outs(root: Path, job: Job, undisturbed: State, when: str) -> Iterator[str]:
    for name in job.outs:
        if (root / name).read_bytes() != undisturbed.files[name]:
            yield f"{when}, {name} is another"


def damage_of(record: Record) -> str:
    """What is damaged in a record that is read to its end."""
    for _ in record.events():
        pass
    return record.damage()


def sealed_in(folder: Path, by_dvc: bool = False) -> Record | None:
    """The sealed record there, read to its end, which has to be a good one."""
    if not (folder / "run.json").exists():
        half = folder.exists() and any(folder.iterdir()) and not by_dvc
        assert not half, f"{folder} is half a record"
        return None
    try:
        record = Record(files_in(folder))
        if damage := damage_of(record):
            raise RecordRefused(damage)
    except RecordRefused:
        if by_dvc:
            return None  # it was at work on a stage's outs itself
        raise
    assert record.end is not None, "a sealed record without an end"
    assert record.end.status == "FINISHED", record.end.status
    return record


def done_again(
    stand: Stand, stop: Stop, status: int, undisturbed: State
) -> tuple[str, str, list[str]]:
    """Give the same command again: the outcome, what it said, and what is wrong then."""
    root, job, kind = stand.repository, JOBS[stop.program], KINDS[stop.kind]
    kept = _checkpoints(root)
    again, said = stand.do(job.main, **job.environment)
    if "Unable to read RWLock-file" in said:  # DVC's own, half written: docs/runrecord/promises.md
        (root / ".dvc" / "tmp" / "rwlock").unlink()
        again, said = stand.do(job.main, **job.environment)
    if again:
        return "fault", said, [f"the second time, it ends with {again}"]
    if not job.stage:
        if job.then:
            said += stand.must(JOBS[job.then].main)
        now = vars(state_of(stand, job)).items()
        wanted = vars(undisturbed)
        wrong = [
            f"{key}: {_differs(here, wanted[key])}" for key, here in now if here != wanted[key]
        ]
        return "done the second time", said, wrong
    resumed = "resuming " in said
    outcome = "resumed from a checkpoint" if resumed else "began anew"
    if status == 0:
        outcome = "ended well all the same"
    faults = [*_other_outs(root, job, undisturbed, "the second time")]
    if kept and not (kind.error or resumed or (job.by_dvc and status == 0)):
        faults.append(f"it begins anew, though there is {kept[-1]}")
    if sealed_in(root / job.record) is None:
        faults.append("the second time, no record is sealed")
    if (left := _checkpoints(root)) and not kind.error:
        faults.append(f"checkpoints left: {left}")
    if job.by_dvc and "up to date" not in (
        answer := stand.must(partial(_become, "dvc", "status", "train"))
    ):
        faults.append(f"dvc status: {answer}")
    for folder in (root / STORE).iterdir():
        if not (folder / "run.json").exists():
            os.utime(folder, (0, 0))  # as if that were long ago
    settled, text = stand.do(_settle)
    shown_in(root)  # nothing twice
    faults += ["sync, or what MLflow shows after it"] if settled else []
    return outcome, said + text, faults


def _checkpoints(root: Path) -> list[Path]:
    """Those of runs that have not finished."""
    found = []
    for path in sorted((root / ".runrecord" / "checkpoints").rglob("*.safetensors")):
        with suppress(RecordRefused):
            end = Record(files_in(root / STORE / path.parent.name)).end
            found += [path] if end is None or end.status != "FINISHED" else []
    return found


def _settle() -> None:
    """Sync, then let MLflow be compared with every record."""
    failed: object = None
    try:
        _runrecord("sync")
    except SystemExit as end:
        failed = end.code
    store = Store(Path.cwd())
    found = {
        folder.name: store.differences(Record(files_in(folder))) for folder in run_dirs(Path.cwd())
    }
    print(found)
    sys.exit(bool(failed) or any(one != [] for one in found.values()))


def _differs(here: Any, there: Any) -> str:
    if isinstance(here, dict):
        here, there = ({(key, repr(one[key])) for key in one} for one in (here, there))
    if isinstance(here, set):
        here, there = sorted(here - there), sorted(there - here)
    return f"{here!r:.600} is not {there!r:.600}"


def chosen(calls: Mapping[str, Sequence[Call]], count: int, seed: int, live: Path) -> list[Stop]:
    """That many stops: each program's share, over its kinds of calls and places, then by chance."""
    chance = random.Random(seed)
    whole = sum(JOBS[name].share for name in calls)
    shares = {name: max(1, count * JOBS[name].share // whole) for name in calls}
    shares[next(iter(calls))] += count - sum(shares.values())
    stops: list[Stop] = []
    for name, found in calls.items():
        strata = sorted({(call.name, place_of(call.path, live)) for call in found})
        kinds = [kind for kind in KINDS if JOBS[name].stage or kind != "console"]
        every = [Stop(name, kind, *one, 1) for kind in kinds for one in strata]
        chance.shuffle(every)
        counted = {stop: sum(is_at(call, stop, live) for call in found) for stop in every}
        able = [stop for stop in every if counted[stop]]
        # A stratum of many calls comes again and again; its calls are told apart by chance.
        stops += [
            replace(stop, nth=chance.randint(1, counted[stop]))
            for stop in islice(cycle(able), shares[name])
        ]
    chance.shuffle(stops)
    return stops


Work = Callable[[Stand, Any, State], Result]
"""What is done with one of them, and with what its program leaves undisturbed."""

_stand: Stand
_undisturbed: Mapping[str, State]


def _begin(base: Path, templates: Sequence[str], undisturbed: Mapping[str, State]) -> None:
    global _stand, _undisturbed
    first = Stand(base / "first")
    _stand = first.copy(base / f"worker-{os.getpid()}", templates)
    _undisturbed = undisturbed


def _one(work: Work, what: Any) -> Result:
    try:
        return work(_stand, what, _undisturbed[what.program])
    except BaseException as error:
        return Result(what, "fault", [f"the campaign: {type(error).__name__}: {error}"], "", 0.0)


def each(
    work: Work,
    all_of: Sequence[Named],
    base: Path,
    templates: Sequence[str],
    undisturbed: Mapping[str, State],
    workers: int,
) -> Iterator[Result]:
    """Do that work with all of these, in processes that have a copy of the stand in `base` each."""
    pool = ProcessPoolExecutor(workers, get_context("fork"), _begin, (base, templates, undisturbed))
    with pool:
        yield from pool.map(partial(_one, work), all_of)


def campaign(
    base: Path, count: int, seed: int, workers: int, wanted: Sequence[Stop], only: Sequence[str]
) -> Iterator[Result]:
    """Make that many stops, or those that are wanted."""
    names = dict.fromkeys([stop.program for stop in wanted] or only or JOBS)
    first = Stand(base / "first")
    templates = sorted({JOBS[name].template for name in names} | {"trained"})
    build(first, templates)
    calls, undisturbed = {}, {}
    for name in names:
        calls[name] = calls_of(first, name)
        if JOBS[name].then:
            first.must(JOBS[JOBS[name].then].main)
        undisturbed[name] = state_of(first, JOBS[name])
    stops = list(wanted) or chosen(calls, count, seed, first.live)
    yield from each(attempt, stops, base, templates, undisturbed, workers)


def write(text: str) -> None:
    """Put the outcome of a run into the docs."""
    commit = git(ROOT, "rev-parse", "--short=10", "HEAD").decode().strip()
    said = f"{time.strftime('%Y-%m-%d', time.gmtime())}, commit {commit}, {platform.system()}"
    before, mark, rest = PAGE.read_text().partition("<!-- campaign -->")
    end = "<!-- end of campaign -->"
    after = rest.partition(end)[2]
    write_atomic(PAGE, f"{before}{mark}\nTaken {said}: {text}\n{end}{after}".encode())


_MOST_MISSED = 0.1
"""Of all stops: threads do not write in the same order each time. More, and a call has gone."""


def main() -> int:
    """Run the campaign; 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stops", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=JOBS, nargs="+", default=[], help="programs")
    parser.add_argument("--again", type=Stop.read, action="append", default=[])
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if not SUPPORTED:
        print(f"skipped: {WHY_NOT}")
        return 0
    began = time.monotonic()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        base = Path(folder).resolve()
        made = campaign(base, given.stops, given.seed, given.workers, given.again, given.only)
        for result in made:
            results.append(result)
            if result.faults or given.again:
                print(f"{result.stop}: {result.outcome}", *result.faults, sep="\n  ", flush=True)
            if given.again:
                print(result.said)
    faulty = sum(bool(result.faults) for result in results)
    spent = time.monotonic() - began
    each = sum(result.seconds for result in results) / len(results)
    missed = sum(result.outcome == "not reached" for result in results)
    summary = f"{len(results)} stops (seed {given.seed}), {faulty} with a fault, "
    summary += f"{missed} not reached."
    print(f"{summary}\n{spent:.0f} s in all, {each:.1f} s a stop")
    stops = [(one.stop.program, one.stop.kind, one.stop.place, one.outcome) for one in results]
    for stop, count in sorted(Counter(stops).items()):
        print(f"  {count:4} {' x '.join(stop)}")
    if given.write:
        write(summary)
    return int(faulty > 0 or missed > len(results) * _MOST_MISSED)


if __name__ == "__main__":
    sys.exit(main())
