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
import json
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn

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
from workspaces import EXPERIMENT, RECORD_ONLY, ROOT, TOY, Workspace, new_project, new_workspace

import runrecord.cli
from runrecord.files import sha256, write_atomic
from runrecord.git.commands import git
from runrecord.record.events import RecordRefused
from runrecord.record.reader import Record, files_in
from runrecord.run.process import run_stage
from runrecord.store.runs import run_dirs
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
    error: int = 0
    lasts: bool = False


KINDS = {
    "kill": Kind(-9),  # SIGKILL, the process that makes the call
    "power": Kind(-9),  # SIGKILL, all processes at once
    "torn": Kind(-9),  # half of that write, then SIGKILL for all
    "term": Kind(143),
    "ctrl-c": Kind(130),  # and again three writes later
    "hangup": Kind(129),  # its terminal is closed
    "console": Kind(128 + signal.SIGPIPE),  # the pipe that it prints to is closed
    "full once": Kind(1, errno.ENOSPC),
    "full": Kind(1, errno.ENOSPC, lasts=True),
    "EIO once": Kind(1, errno.EIO),
    "EIO": Kind(1, errno.EIO, lasts=True),
}


@dataclass(frozen=True)
class Stop:
    """One stop: of a program, at the nth call of a name in a place."""

    program: str
    kind: str
    call: str
    place: str
    nth: int

    def __str__(self) -> str:
        return "|".join(map(str, vars(self).values()))

    @staticmethod
    def read(text: str) -> "Stop":
        program, kind, call, place, nth = text.split("|")
        return Stop(program, kind, call, place, int(nth))


@dataclass(frozen=True)
class Result:
    """What came of a stop."""

    stop: Stop
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


_BY_HAND = {"DVC_STAGE": "train"}
_TOY: dict[str, Any] = {"stage": "train", "outs": ("model.bin", "metrics.json")}
_REAL = ("models/ae.safetensors", "metrics/ae.json", "metrics/ae_history.csv")
JOBS = {
    "train": Job(_train, 45, environment={**_BY_HAND, **RECORD_ONLY}, **_TOY),
    "train and show": Job(_train, 25, environment=_BY_HAND, **_TOY),
    "first train": Job(_train, 5, "new", environment={**_BY_HAND, **RECORD_ONLY}, **_TOY),
    "dvc repro": Job(
        partial(_become, "dvc", "repro", "train"),
        8,
        environment=RECORD_ONLY,
        by_dvc=True,
        **_TOY,
    ),
    "train-ae": Job(
        partial(_become, "python", "stages/train_ae.py"),
        1,
        "real",
        environment={"DVC_STAGE": "train-ae"},
        stage="train-ae",
        outs=_REAL,
    ),
    "sync": Job(partial(_runrecord, "sync", "--tensorboard"), 5, "kept"),
    "reap": Job(partial(_runrecord, "reap"), 4, "kept", then="sync"),
    "gc": Job(partial(_runrecord, "gc", "--keep", "1", "--yes"), 3, "kept"),
    "report": Job(partial(_runrecord, "report"), 2, "kept"),
    "verify": Job(partial(_runrecord, "verify", "records/train"), 2, "kept"),
}


_HALF = """    with open("model.bin", "wb") as file:
        file.write(walk.place.tobytes())
    with open("metrics.json", "w") as file:
        json.dump({"Length": float(np.linalg.norm(walk.place))}, file)
"""
_WHOLE = """    length = {"Length": float(np.linalg.norm(walk.place))}
    texts = walk.place.tobytes(), json.dumps(length).encode()
    for name, text in zip(("model.bin", "metrics.json"), texts, strict=True):
        with open(f"{name}.new", "wb") as file:
            file.write(text)
        os.replace(f"{name}.new", name)
"""
assert _HALF in TOY["train.py"]
FILES = TOY | {
    ".gitignore": f"{TOY['.gitignore']}/*.new\n",
    "params.yaml": "train: {epochs: 3, lr: 0.5}\n",
    "train.py": TOY["train.py"].replace(_HALF, _WHOLE),
}
"""The toy project, whose training writes its outs at once or not at all."""


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

    def keep(self, name: str) -> None:
        """Keep what there is as a template."""
        shutil.copytree(self.live, self.base / name, symlinks=True)

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
            if database.exists():
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
        if name == "real":
            workspace = new_workspace(stand.repository)
            _repro(stand, "train-ae")
            workspace.set_params(ae__lr=0.002)
        else:
            workspace = new_project(stand.repository, FILES)
            _repro(stand, "train")
            stand.must(JOBS["sync"].main)
            if name == "kept":
                _live_on(stand, workspace)
            else:
                workspace.set_params(train__lr=0.25)
            if name == "new":
                shutil.rmtree(stand.repository / ".runrecord")
        stand.keep(name)


def _live_on(stand: Stand, workspace: Workspace) -> None:
    """More runs, which MLflow does not show; the last one is dead."""
    for rate in (0.25, 0.125):
        workspace.set_params(train__lr=rate)
        _repro(stand, "train")
    workspace.set_params(train__lr=1.0)
    dead = Stop("train", "kill", "write", "events.jsonl", 3)
    assert stopped(stand, dead)[0] == -signal.SIGKILL
    workspace.run("git", "checkout", "--quiet", "params.yaml")


def _repro(stand: Stand, stage: str) -> None:
    stand.must(partial(_become, "dvc", "repro", stage), **RECORD_ONLY)
    workspace = Workspace(stand.repository)
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", "--message=results")


class _At:
    """What happens at the calls of a program that is to be stopped."""

    def __init__(self, stop: Stop, live: Path, console: int) -> None:
        self._stop = stop
        self._live = live
        self._console = console
        self._left = stop.nth
        self._after = 0
        self.said = b""
        self.reached: Call | None = None
        self.main = 0

    def __call__(self, main: int, call: Call) -> int:
        self.main = main
        self._listen()
        if self.reached is None:
            if not is_at(call, self._stop, self._live):
                return 0
            self._left -= 1
            if self._left:
                return 0
            self.reached = call
            self._do(main, call)
            return refusal(KINDS[self._stop.kind].error, call)
        self._after += 1
        if self._stop.kind == "ctrl-c" and self._after == 3:
            os.killpg(main, signal.SIGINT)
        kind = KINDS[self._stop.kind]
        return refusal(kind.error, call) if kind.lasts else 0

    def _do(self, main: int, call: Call) -> None:
        match self._stop.kind:
            case "kill":
                os.kill(call.process, signal.SIGKILL)
            case "power":
                os.killpg(main, signal.SIGKILL)
            case "torn":
                tear(call)
                os.killpg(main, signal.SIGKILL)
            case "term":
                os.kill(main, signal.SIGTERM)
            case "ctrl-c":
                os.killpg(main, signal.SIGINT)
            case "hangup" | "console":
                os.close(self._console)
                self._console = -1

    def _listen(self) -> None:
        if self._console >= 0:
            with suppress(BlockingIOError):
                self.said += os.read(self._console, 2**16)


def is_at(call: Call, stop: Stop, live: Path) -> bool:
    """Is that a call of the kind that is to be stopped, and one that can fail so?"""
    if (call.name, place_of(call.path, live)) != (stop.call, stop.place):
        return False
    if stop.kind == "torn":
        return is_write(call)
    error = KINDS[stop.kind].error
    return not error or bool(refusal(error, call))


def stopped(stand: Stand, stop: Stop) -> tuple[int, str, Call | None, int]:
    """Run a program with a stop: its exit status, what it said, the call, and its process."""
    job = JOBS[stop.program]
    ours = -1
    if stop.kind == "hangup":
        ours, its = os.openpty()
    elif stop.kind == "console":
        ours, its = os.pipe()
    else:
        its = os.open(stand.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if ours >= 0:
        os.set_blocking(ours, False)
    at = _At(stop, stand.live, ours)
    program = stand.program(job.main, **job.environment)
    status = run_stopped(program, its, stand.live, at, PATIENCE)
    os.close(its)
    if ours >= 0 and at.reached is None:
        os.close(ours)
    said = at.said.decode(errors="replace") if ours >= 0 else stand.output.read_text()
    return status, said, at.reached, at.main


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
    shown: Mapping[str, Any]
    """Of each run in MLflow, all that it shows."""
    files: Mapping[str, bytes]
    folders: list[str]
    """In TensorBoard."""
    sealed: str
    """The run whose record is sealed."""
    git: bytes


def state_of(stand: Stand, job: Job) -> State:
    """What is in the repository now."""
    root = stand.repository
    records = {
        folder.name: {name: sha256(path) for name, path in files_in(folder).items()}
        for folder in run_dirs(root)
    }
    names = [*job.outs, "report.html"]
    today = re.compile(rb"[0-9-]{10} [0-9:]{5} UTC")
    files = {
        name: today.sub(b"today", (root / name).read_bytes())
        for name in names
        if (root / name).exists()
    }
    folders = [path.name for path in root.glob("tensorboard/*/*") if any(path.iterdir())]
    sealed = sealed_in(root / job.record, job.by_dvc)
    name = sealed.start.id if sealed else ""
    return State(records, shown_in(root), files, sorted(folders), name, git_of(root, job))


def shown_in(root: Path) -> dict[str, Any]:
    """All that MLflow has of each run, less ids of its own and the time of a verification."""
    if not (root / "mlflow.db").exists():
        return {}
    with closing(sqlite3.connect(root / "mlflow.db", timeout=20)) as database:
        ask = database.execute
        problems = [row[0] for row in ask("PRAGMA integrity_check")]
        assert problems == ["ok"], problems
        rows = ask(
            "SELECT value, runs.run_uuid, status, start_time, end_time FROM runs "
            "JOIN tags ON tags.run_uuid = runs.run_uuid WHERE key = 'record.id'"
        ).fetchall()
        found: dict[str, Any] = {}
        for record, run_id, *times in rows:
            assert record not in found, f"MLflow shows {record} twice"
            tags = ask("SELECT key, value FROM tags WHERE run_uuid = ?", [run_id])
            columns = "key, step, timestamp, value"
            points = ask(f"SELECT {columns} FROM metrics WHERE run_uuid = ?", [run_id]).fetchall()
            assert len({point[:3] for point in points}) == len(points), f"doubled points: {record}"
            models = ask("SELECT name, status FROM logged_models WHERE source_run_id = ?", [run_id])
            artifacts = root / "mlruns" / run_id
            found[record] = {
                "times": times,
                "tags": sorted(tag for tag in tags if not _is_own(tag[0])),
                "params": sorted(ask("SELECT key, value FROM params WHERE run_uuid = ?", [run_id])),
                "points": sorted(points),
                "models": models.fetchall(),
                "artifacts": sorted(
                    str(path.relative_to(artifacts))
                    for path in artifacts.rglob("*")
                    if path.is_file()
                ),
            }
        return found


def _is_own(tag: str) -> bool:
    return tag.endswith(("model.id", "run_id")) or tag in (
        "mlflow.note.content",
        "description.sha256",
        "verified.time",
    )


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
    born = {folder / "run.json" for folder in (root / ".runrecord" / "runs").iterdir()}
    mine = ("number.lock", "seal.lock", "sync.lock", "mlflow.lock", "dvc.lock", "requirements.lock")
    left = [path for path in found if _RUBBISH.fullmatch(path.name) and path.name not in mine]
    left += [path for path in born if not path.exists()]
    return [str(path.relative_to(root)) for path in left]


def attempt(stand: Stand, stop: Stop, undisturbed: State) -> Result:
    """One stop, and all that is looked at afterwards."""
    began = time.monotonic()
    job = JOBS[stop.program]
    before = stand.before(stop.program)
    status, said, reached, main = stopped(stand, stop)
    told = f"exit status {status}\n{said}"
    if reached is None:
        early = [] if status == 0 else [f"not reached, and it ends with {status}"]
        return Result(stop, "not reached", early, told, time.monotonic() - began)
    faults: list[str] = []
    try:
        if job.stage:
            alone = reached.process == main or stop.kind != "kill"
            faults += [*right_then(stand, job, stop, status, said, before, undisturbed, alone)]
            outcome, more, again = _train_again(stand, job, stop, status, before, undisturbed)
        else:
            faults += [*_intact(stand, job, before)]
            outcome, more, again = _do_again(stand, job, undisturbed)
        faults += more
        told += f"\nand again:\n{again}"
        faults += [f"left behind: {name}" for name in rubbish_in(stand.repository)]
    except (AssertionError, OSError, sqlite3.Error, RecordRefused) as error:
        outcome = "fault"
        faults.append(f"{type(error).__name__}: {error}")
    return Result(stop, outcome, faults, told, time.monotonic() - began)


def _intact(stand: Stand, job: Job, before: State) -> Iterator[str]:
    """What is wrong by now with what was there before."""
    root = stand.repository
    for folder in run_dirs(root):
        if folder.name in before.records and job.main is not JOBS["gc"].main:
            now = {name: sha256(path) for name, path in files_in(folder).items()}
            then = before.records[folder.name]
            record = Record(files_in(folder))
            half = record.cut_off  # of the line that `reap` was writing
            ended = "events.jsonl" not in then or record.end is not None or half
            if now != then and not (ended and now.keys() >= then.keys()):
                yield f"the record of {folder.name} is another"
    shown = shown_in(root)
    for name, what in before.shown.items():
        if job.stage and shown.get(name) != what:
            yield f"MLflow shows {name} otherwise"
    if git_of(root, job) != before.git and not job.by_dvc:
        yield f"Git: {before.git.decode()} became {git_of(root, job).decode()}"
    if locks := [str(path) for path in (root / ".git").rglob("*.lock")]:
        yield f"left in Git: {locks}"


def right_then(
    stand: Stand,
    job: Job,
    stop: Stop,
    status: int,
    said: str,
    before: State,
    undisturbed: State,
    alone: bool,
) -> Iterator[str]:
    """What is not as it should be on the disk, once a stage was stopped."""
    root, kind = stand.repository, KINDS[stop.kind]
    yield from _intact(stand, job, before)
    # A script's own write that fails names no file: its traceback says where.
    in_script = re.search(r'train\.py", line \d+, in <module>\n(    .*\n)*OSError', said)
    if "Traceback" in said and not in_script and not job.by_dvc:
        yield "it prints a traceback"
    if status not in (0, kind.exits) and not job.by_dvc:
        yield f"exit status {status}"
    new = [folder for folder in run_dirs(root) if folder.name not in before.records]
    end: str | None = None
    for folder in new:
        record = Record(files_in(folder))
        if damage := damage_of(record):
            yield f"the record of {folder.name} is damaged: {damage}"
        end = record.end.status if record.end else None
    sealed = sealed_in(root / job.record, job.by_dvc)
    is_new = sealed is not None and sealed.start.id != before.sealed
    if status == 0:
        if not is_new:
            yield "it ends well, and its record is not sealed"
        if end != "FINISHED" and not kind.error:
            yield f"it ends well, and its record says {end}"
        for name in job.outs:
            if (root / name).read_bytes() != undisturbed.files[name]:
                yield f"it ends well, and {name} is another"
    else:
        signalled = stop.kind in ("term", "ctrl-c", "hangup")
        if is_new and signalled and not job.by_dvc:
            yield "its record is sealed, and its exit status says that it was stopped"
        if signalled and new and alone and not job.by_dvc:
            cut_off = stop.kind == "ctrl-c" and end is None  # the second one ended its last words
            if end != "KILLED" and not cut_off:
                yield f"its record says {end}"
    grows = job.template == "real"  # the metrics of a real training, with each epoch
    for name in job.outs[: 1 if grows else None]:
        path = root / name
        content = path.read_bytes() if path.exists() else None
        whole = undisturbed.files[name]
        if content not in (None, before.files.get(name), whole):
            yield f"{name} is neither the old one nor the new one"


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


def _train_again(
    stand: Stand, job: Job, stop: Stop, status: int, before: State, undisturbed: State
) -> tuple[str, list[str], str]:
    """Give the same command again: the outcome, what is wrong then, and what it said."""
    root = stand.repository
    faults: list[str] = []
    said = ""
    if stop.nth % 2:
        reaped, text = stand.do(JOBS["reap"].main)
        said += f"reap: {text}"
        if reaped and not job.by_dvc:
            faults.append(f"reap ends with {reaped}")
        sealed = sealed_in(root / job.record, job.by_dvc)
        for folder in run_dirs(root):
            record = Record(files_in(folder))
            if record.end is None and not (sealed and sealed.start.id == folder.name):
                faults.append(f"{folder.name} is not closed by reap")
    kept = _checkpoints(root)
    again, text = stand.do(job.main, **job.environment)
    said += text
    if "Unable to read RWLock-file" in text:  # DVC's own, half written: docs/runrecord/promises.md
        (root / ".dvc" / "tmp" / "rwlock").unlink()
        again, text = stand.do(job.main, **job.environment)
        said += text
    if again:
        return "fault", [*faults, f"the second time, it ends with {again}"], said
    goes_on = "resuming " in text
    by_dvc_already = job.by_dvc and status == 0
    if not KINDS[stop.kind].error and kept and not goes_on and not by_dvc_already:
        faults.append(f"it begins anew, though there is {kept[-1]}")
    faults += [
        f"the second time, {name} is another"
        for name in job.outs
        if (root / name).read_bytes() != undisturbed.files[name]
    ]
    if sealed_in(root / job.record) is None:
        faults.append("the second time, no record is sealed")
    left = _checkpoints(root)
    if left and not KINDS[stop.kind].error:
        faults.append(f"checkpoints left: {left}")
    if job.by_dvc:
        answer = stand.must(partial(_become, "dvc", "status", "train"))
        if "up to date" not in answer:
            faults.append(f"dvc status: {answer}")
    if job.template != "real":
        for folder in (root / ".runrecord" / "runs").iterdir():
            if not (folder / "run.json").exists():
                os.utime(folder, (0, 0))  # as if that were long ago
        settled, text = stand.do(_settle)
        said += text
        if settled:
            faults.append("sync, or what MLflow shows after it")
        faults += _untrue(root, job, before)
    if status == 0:
        return "ended well all the same", faults, said
    return "went on from a checkpoint" if goes_on else "began anew", faults, said


def _checkpoints(root: Path) -> list[Path]:
    """Those of runs that have not finished."""
    found = []
    for path in sorted((root / ".runrecord" / "checkpoints").rglob("*.safetensors")):
        with suppress(RecordRefused):
            end = Record(files_in(root / ".runrecord" / "runs" / path.parent.name)).end
            found += [path] if end is None or end.status != "FINISHED" else []
    return found


def _settle() -> None:
    """Sync, then let MLflow be compared with every record."""
    root = Path.cwd()
    failed: object = None
    try:
        _runrecord("sync")
    except SystemExit as end:
        failed = end.code
    store = Store(root)
    found = {}
    for folder in run_dirs(root):
        record = Record(files_in(folder))
        found[folder.name] = store.differences(record)
    print(found)
    sys.exit(bool(failed) or any(one != [] for one in found.values()))


def _untrue(root: Path, job: Job, before: State) -> Iterator[str]:
    """Runs that MLflow does not show as they ended."""
    shown = shown_in(root)
    sealed = sealed_in(root / job.record, job.by_dvc)
    records = {folder.name: Record(files_in(folder)) for folder in run_dirs(root)}
    if sealed:
        records[sealed.start.id] = sealed
    if shown.keys() | before.shown.keys() != records.keys() | before.shown.keys():
        yield f"MLflow shows {sorted(shown)}, there are {sorted(records)}"
    for name, record in records.items():
        told = record.end.status if record.end else None
        if name in shown and shown[name]["times"][0] != told:
            yield f"MLflow says {shown[name]['times'][0]}, the record of {name} {told}"


def _do_again(stand: Stand, job: Job, undisturbed: State) -> tuple[str, list[str], str]:
    status, said = stand.do(job.main, **job.environment)
    if status:
        return "fault", [f"the second time, it ends with {status}"], said
    if job.then:
        said += stand.must(JOBS[job.then].main)
    now = state_of(stand, job)
    faults = [
        f"{what} is not as if nobody had stopped it: {_differs(here, there)}"
        for what in vars(now)
        if (here := getattr(now, what)) != (there := getattr(undisturbed, what))
    ]
    return "done the second time", faults, said


def _differs(here: Any, there: Any) -> str:
    if isinstance(here, dict) and isinstance(there, dict):
        names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        inner = {name: _differs(here.get(name), there.get(name)) for name in names}
        return json.dumps(inner, default=repr)[:600]
    return f"{here!r:.300} is not {there!r:.300}"


def chosen(calls: Mapping[str, Sequence[Call]], count: int, seed: int, live: Path) -> list[Stop]:
    """That many stops: each program's share, over its kinds of calls and places, then by chance."""
    chance = random.Random(seed)
    whole = sum(JOBS[name].share for name in calls)
    shares = {name: max(1, count * JOBS[name].share // whole) for name in calls}
    shares[next(iter(calls))] += count - sum(shares.values())
    stops: list[Stop] = []
    for name, found in calls.items():
        strata = Counter((call.name, place_of(call.path, live)) for call in found)
        possible = [
            (kind, call, place)
            for kind in KINDS
            for call, place in sorted(strata)
            if JOBS[name].stage or kind != "console"
        ]
        chance.shuffle(possible)
        every = [Stop(name, *one, 1) for one in possible]
        counted = {stop: sum(is_at(call, stop, live) for call in found) for stop in every}
        able = [stop for stop in every if counted[stop]]
        # A stratum of many calls comes again and again; its calls are told apart by chance.
        for stop in islice(cycle(able), shares[name]):
            nth = chance.randint(1, counted[stop])
            stops.append(Stop(stop.program, stop.kind, stop.call, stop.place, nth))
    chance.shuffle(stops)
    return stops


_stand: Stand
_undisturbed: Mapping[str, State]


def _begin(base: Path, templates: Sequence[str], undisturbed: Mapping[str, State]) -> None:
    global _stand, _undisturbed
    first = Stand(base / "first")
    _stand = first.copy(base / f"worker-{os.getpid()}", templates)
    _undisturbed = undisturbed


def _one(stop: Stop) -> Result:
    try:
        return attempt(_stand, stop, _undisturbed[stop.program])
    except BaseException as error:
        return Result(stop, "fault", [f"the campaign: {type(error).__name__}: {error}"], "", 0.0)


def campaign(
    base: Path, count: int, seed: int, workers: int, wanted: Sequence[Stop], only: Sequence[str]
) -> Iterator[Result]:
    """Make that many stops, or those that are wanted."""
    names = dict.fromkeys([stop.program for stop in wanted] or only or JOBS)
    first = Stand(base / "first")
    templates = sorted({JOBS[name].template for name in names} | {"trained"})
    if not (wanted or only) and count < 300:  # the real thing takes as long as twenty stops
        names.pop("train-ae", None)
        templates = [name for name in templates if name != "real"]
    build(first, templates)
    calls, undisturbed = {}, {}
    for name in names:
        calls[name] = calls_of(first, name)
        if JOBS[name].then:
            first.must(JOBS[JOBS[name].then].main)
        undisturbed[name] = state_of(first, JOBS[name])
    stops = list(wanted) or chosen(calls, count, seed, first.live)
    pool = ProcessPoolExecutor(workers, get_context("fork"), _begin, (base, templates, undisturbed))
    with pool:
        yield from pool.map(_one, stops)


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
