"""The other half of a power cut: what was written and not yet synced is lost.

    python tests/power.py                        # a thousand states are gone on from
    python tests/power.py --states 60 --seed 1
    python tests/power.py --again "train|some|57|1"    # one, told in full

After a stop at a write (tests/campaign.py) all that was written before it is there, for the system
keeps that in memory. When the power fails, the disk is sure to have what was synced: the content
that a file had at its last fsync, and the names that a folder had at its own. Of later content any
part may be there, and any of the later names.

Each program runs once undisturbed. Before each call that writes, all that the disk might have then
is looked at: every record that is there is whole, and nothing is missing that a call had returned
for. Then it runs again and again until the power fails at a call by chance; from what the disk
might have then, the same command is given again, as in the other campaign. In every third, the
power fails once more while that runs.
"""

import argparse
import os
import random
import re
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from campaign import (
    JOBS,
    PATIENCE,
    Named,
    Result,
    Stand,
    State,
    Stop,
    build,
    damage_of,
    done_again,
    each,
    rubbish_in,
    sealed_in,
    state_of,
)
from stops import SUPPORTED, WHY_NOT, Call, Program, is_write, run_stopped, written_by

from runrecord.record.events import RecordRefused
from runrecord.record.reader import Record, files_in
from runrecord.store.runs import STORE, run_dirs

WAYS = ("data", "names", "both", "torn", "some")
"""What is lost: all unsynced content; names; both; half of the write at hand; any of these."""
PROGRAMS = ("train", "first train")
_OURS = (".runrecord", "records")
_NAMES = ("open", "rename", "mkdir", "rmdir", "link", "unlink", "symlink")


class Disk:
    """What a disk is sure to have of a folder: what was there before, and what was synced since.

    Files and folders go by their inodes, which stay theirs, as all are held open.
    """

    def __init__(self, root: Path) -> None:
        self._held: dict[int, int] = {}
        self._content: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._since: dict[int, list[dict[str, int]]] = {}
        """The names that a folder had before each call since its last sync which changed them."""
        self.root = self._hold(root)
        self._learn(self.root)

    def close(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)

    def note(self, call: Call) -> None:
        """See a call that is not made yet."""
        with suppress(OSError):  # what is gone by now
            if call.name in ("fsync", "fdatasync"):
                place = Path(f"/proc/{call.thread}/fd/{call.arguments[0] & 0xFFFFFFFF}").resolve()
                self._sync(self._hold(place))
            elif call.name in _NAMES:
                folder = os.stat(Path(call.path).parent).st_ino
                if folder in self._held:
                    self._since.setdefault(folder, []).append(self._listed(folder))

    def put(
        self,
        target: Path,
        way: str,
        chance: random.Random,
        call: Call | None = None,
        only: Collection[str] = (),
    ) -> None:
        """Write what the disk might have to `target`: of a repository, `only` some of its folders.

        Where a write is torn, it is that of `call`.
        """
        torn: tuple[int, int, bytes] | None = None
        if way in ("torn", "some") and call and is_write(call):
            with suppress(OSError):
                torn = (os.stat(call.path).st_ino, *written_by(call, chance.random()))
        placed: dict[int, Path] = {}

        def one(inode: int, path: Path, top: bool = False) -> None:
            status = os.fstat(self._held[inode])
            if stat.S_ISDIR(status.st_mode):
                path.mkdir(parents=True)
                for name, below in self._names_of(inode, way, chance).items():
                    if not (top and only) or name in only:
                        one(below, path / name)
                os.chmod(path, status.st_mode & 0o7777)
            elif stat.S_ISLNK(status.st_mode):
                path.symlink_to(os.readlink("", dir_fd=self._held[inode]))
            elif inode in placed:
                os.link(placed[inode], path)
            else:
                content = self._content_of(inode, way, chance)
                if torn and torn[0] == inode:
                    content = content[: torn[1]].ljust(torn[1], b"\0") + torn[2]
                path.write_bytes(content)
                os.chmod(path, status.st_mode & 0o7777)
                placed[inode] = path
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)

        one(self.root, target, top=True)

    def _hold(self, path: Path) -> int:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        inode = os.fstat(descriptor).st_ino
        if inode in self._held:
            os.close(descriptor)
        else:
            self._held[inode] = descriptor
        return inode

    def _here(self, inode: int) -> Path:
        return Path(f"/proc/self/fd/{self._held[inode]}")

    def _listed(self, folder: int) -> dict[str, int]:
        found = {}
        for name in os.listdir(self._here(folder)):
            with suppress(FileNotFoundError):
                found[name] = self._hold(self._here(folder) / name)
        return found

    def _learn(self, inode: int) -> None:
        """All that is there now is on the disk."""
        self._sync(inode)
        for below in self._names.get(inode, {}).values():
            self._learn(below)

    def _sync(self, inode: int) -> None:
        mode = os.fstat(self._held[inode]).st_mode
        if stat.S_ISDIR(mode):
            self._names[inode] = self._listed(inode)
            self._since.pop(inode, None)
        elif stat.S_ISREG(mode):
            self._content[inode] = self._here(inode).read_bytes()

    def _names_of(self, folder: int, way: str, chance: random.Random) -> Mapping[str, int]:
        sure = self._names.get(folder, {})
        if way in ("names", "both"):
            return sure
        now = self._listed(folder)
        return now if way != "some" else chance.choice([sure, *self._since.get(folder, ()), now])

    def _content_of(self, inode: int, way: str, chance: random.Random) -> bytes:
        sure = self._content.get(inode, b"")
        if way in ("data", "both"):
            return sure
        now = self._here(inode).read_bytes()
        if way != "some" or now == sure:
            return now
        part = now[: chance.randint(len(sure), len(now))] if now.startswith(sure) else now
        return chance.choice([sure, part, now, part.ljust(len(now), b"\0")])


class Promised:
    """What a program's calls have returned for: it can rely on that."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self.events: dict[str, int] = {}
        """How many each run's record has."""
        self.sealed: set[str] = set()
        self._soon: dict[int, tuple[str, int]] = {}

    def note(self, call: Call) -> None:
        """See a call that is not made yet: a write has returned once something else is done."""
        if call.thread in self._soon and not (call.name == "fsync" and os.path.isdir(call.path)):
            name, length = self._soon.pop(call.thread)
            if length:
                self.events[name] = max(length, self.events.get(name, 0))
            else:
                self.sealed.add(name)
        place = call.path.removeprefix(f"{self._root}/")
        run = re.fullmatch(rf"{re.escape(STORE)}/([^/]+)/(run\.json|events\.jsonl)", place)
        if run and (call.name, run[2]) == ("rename", "run.json"):
            self._soon[call.thread] = run[1], 1
        elif run and (call.name, run[2]) == ("fsync", "events.jsonl"):
            self._soon[call.thread] = run[1], 1 + Path(call.path).read_bytes().count(b"\n")
        elif call.name == "rename" and re.fullmatch(r"records/[^./][^/]*", place):
            self._soon[call.thread] = place, 0
        elif call.name == "rename" and (old := re.fullmatch(r"records/\.([^/]+)\.old", place)):
            self.sealed.discard(f"records/{old[1]}")  # a newer one takes its place


def lost_in(root: Path, promised: Promised) -> Iterator[str]:
    """What the records in a folder lack."""
    runs = {}
    for folder in run_dirs(root):
        try:
            runs[folder.name] = record = Record(files_in(folder))
            if damage := damage_of(record):
                yield f"the record of {folder.name} is damaged: {damage}"
        except RecordRefused as error:
            yield f"the record of {folder.name} is refused: {error}"
    for name, length in promised.events.items():
        there = runs[name].length if name in runs else 0
        if there < length:
            yield f"of the record of {name}, {there} of {length} events are there"
    for folder in (root / "records").glob("[!.]*"):
        try:
            if sealed_in(folder) is None:
                yield f"{folder.name} is no record"
        except (AssertionError, RecordRefused) as error:
            yield f"sealed: {error}"
    for name in promised.sealed:
        if not (root / name).exists():
            yield f"{name} was sealed, and is not there"


def looked_at(
    program: Program, root: Path, states: Path, seed: int, ways: Sequence[str] = WAYS
) -> tuple[int, int, list[str]]:
    """Run a program undisturbed: its calls, the states that the disk might have had, the faults.

    Each state of the records below `root` is put at `states`, outside of it.
    """
    disk, promised, chance = Disk(root), Promised(root), random.Random(seed)
    calls, count, faults = 0, 0, list[str]()

    def on_call(_main: int, call: Call) -> int:
        nonlocal calls, count
        calls += 1
        promised.note(call)
        place = call.path.removeprefix(f"{root}/")
        for way in ways if place.partition("/")[0] in _OURS else ():
            shutil.rmtree(states, ignore_errors=True)
            disk.put(states, way, chance, call, only=_OURS)
            count += 1
            lost = [*lost_in(states, promised)]
            faults.extend(f"{way} at call {calls}, {call.name} of {place}: {one}" for one in lost)
        disk.note(call)
        return 0

    with tempfile.TemporaryFile() as output:
        status = run_stopped(program, output.fileno(), root.parent, on_call, 10 * PATIENCE)
        output.seek(0)
        said = output.read().decode(errors="replace")
    disk.close()
    shutil.rmtree(states, ignore_errors=True)
    assert status == 0, said
    assert promised.events, "it wrote no record"
    assert promised.sealed, "it sealed none"
    return calls, count, faults


@dataclass(frozen=True)
class Cut(Named):
    """The power fails before the nth call of a program, and so much is lost."""

    way: str
    nth: int
    seed: int


def cut(stand: Stand, it: Cut) -> bool:
    """Run a program until the power fails, and let the repository be what the disk has then."""
    disk, promised = Disk(stand.live), Promised(stand.repository)
    chance, left = random.Random(it.seed), it.nth
    new = stand.base / "cut"
    shutil.rmtree(new, ignore_errors=True)

    def on_call(main: int, call: Call) -> int:
        nonlocal left
        promised.note(call)
        left -= 1
        if left == 0:
            disk.put(new, it.way, chance, call)
            os.killpg(main, signal.SIGKILL)
        elif left > 0:
            disk.note(call)
        return 0

    program = stand.program(JOBS[it.program].main, **JOBS[it.program].environment)
    with stand.output.open("wb") as output:
        status = run_stopped(program, output.fileno(), stand.live, on_call, PATIENCE)
    disk.close()
    if left > 0:
        assert status == 0, stand.output.read_text()
        return False
    shutil.rmtree(stand.live)
    new.rename(stand.live)
    lost = [*lost_in(stand.repository, promised)]
    assert not lost, lost
    return True


def gone_on_from(stand: Stand, it: Cut, undisturbed: State) -> Result:
    """One state, and what comes of the same command."""
    began, said = time.monotonic(), ""
    stand.before(it.program)
    try:
        if not cut(stand, it):
            return Result(it, "not reached", [], said, time.monotonic() - began)
        again = it.seed % 3 == 0 and cut(stand, Cut(it.program, it.way, 1 + it.seed % 40, it.seed))
        stop = Stop(it.program, "power", "", "", 0)
        outcome, said, faults = done_again(stand, stop, -signal.SIGKILL, undisturbed)
        outcome += again * ", at the third attempt"
        faults += [f"left behind: {name}" for name in rubbish_in(stand.repository)]
    except (AssertionError, OSError, RecordRefused) as error:
        outcome, faults = "fault", [f"{type(error).__name__}: {error}"]
    return Result(it, outcome, faults, said, time.monotonic() - began)


def allow_many_files() -> None:
    """Let this process hold all files of a repository open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> int:
    """Look at all states of each program, and go on from some; 1 if something is lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--states", type=int, default=1000, help="that are gone on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--look", choices=WAYS, nargs="+", default=WAYS, help="at these alone")
    parser.add_argument("--again", type=Cut.read, action="append", default=[])
    given = parser.parse_args()
    if not SUPPORTED:
        print(f"skipped: {WHY_NOT}")
        return 0
    allow_many_files()
    began, chance, faulty = time.monotonic(), random.Random(given.seed), 0
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="power-") as folder:
        base = Path(folder).resolve()
        first = Stand(base / "first")
        templates = sorted({JOBS[name].template for name in PROGRAMS})
        build(first, templates)
        calls, undisturbed = {}, {}
        for name in PROGRAMS:
            first.reset(JOBS[name].template)
            program = first.program(JOBS[name].main, **JOBS[name].environment)
            found = looked_at(program, first.repository, base / "states", given.seed, given.look)
            calls[name], states, faults = found
            undisturbed[name] = state_of(first, JOBS[name])
            print(f"{name}: {states} states at {calls[name]} calls, {len(faults)} faults")
            print(*faults[:20], sep="\n", end="\n" if faults else "")
            faulty += len(faults)
        cuts = given.again or [
            Cut(name, WAYS[number % len(WAYS)], chance.randint(1, calls[name]), number)
            for number in range(given.states)
            for name in [PROGRAMS[number % 10 == 0]]
        ]
        for result in each(gone_on_from, cuts, base, templates, undisturbed, given.workers):
            it = result.stop
            outcomes[f"{it.program} x {it.way} x {result.outcome}"] += 1
            faulty += bool(result.faults)
            if result.faults or given.again:
                said = result.said if given.again else ""
                print(f"{it}: {result.outcome}", *result.faults, said, sep="\n  ")
    print(
        f"{len(cuts)} states gone on from (seed {given.seed}) in {time.monotonic() - began:.0f} s"
    )
    for outcome, count in sorted(outcomes.items()):
        print(f"  {count:4} {outcome}")
    print(f"{faulty} faults")
    return int(faulty > 0)


if __name__ == "__main__":
    sys.exit(main())
