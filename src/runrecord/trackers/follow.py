"""`python -m runrecord.trackers.follow RECORD PID PAST`: plays a record while its run goes on.

The run's process starts it and writes the record; this one reads that and shows it. Once the run's
process is gone without an end on record, it is closed as KILLED here.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock, Timeout

from runrecord.record.events import files_of
from runrecord.record.reader import Growing
from runrecord.safety.text import shown
from runrecord.store.catalog import sealed_ids
from runrecord.store.runs import FOLLOWING, close_if_dead, is_running
from runrecord.trackers.base import Sink
from runrecord.trackers.mlflow.sink import MlflowSink
from runrecord.trackers.tensorboard import TensorBoardSink, import_tensorboardx

RETRY = 10.0  # seconds that a tracker which failed is left alone
_SOON = 1.0  # the same, after its first failure, of which nothing is said: others begin, too
_LOOK = 0.2  # seconds between two looks at the record
_LOWER = 10  # of 19: training comes first
_ORPHANED = 60.0  # seconds that it goes on without the run's process


def main() -> None:
    """Follow the record that the command line names, until all of it is shown."""
    os.nice(_LOWER)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # the run ends it, once it has ended itself
    folder, process, past = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    root = folder.parents[2]
    trackers = [one for one in (TensorBoardSink, MlflowSink) if find_spec(one.package)]

    def say(text: str) -> None:
        with suppress(OSError):  # the disk is full
            os.write(1, shown(text).encode(errors="replace") + b"\n")

    lock = FileLock(folder / FOLLOWING, fallback_to_soft=False)
    with suppress(OSError, Timeout):  # a disk without locks; the follower of an attempt before
        lock.acquire(blocking=False)
    threads = [Showing(tracker, root, folder, past, say) for tracker in trackers]
    if TensorBoardSink in trackers:
        with suppress(Exception):  # it is raised again where it is said
            import_tensorboardx()  # while nothing else is imported
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if os.getppid() != process:  # it has ended
            _after_its_death(folder, threads)
            break
        time.sleep(_LOOK)
    os._exit(0)  # a call that hangs holds up nothing


def _after_its_death(folder: Path, threads: "list[Showing]") -> None:
    """Close the run and show its end; another process that resumes it has a follower of its own."""
    if folder.name in sealed_ids(folder.parents[2]):  # it ended well: `sync` shows that
        return
    deadline = time.monotonic() + _ORPHANED
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
        if is_running(folder):
            return
        with suppress(Exception):  # `sync` closes it, or says what is wrong
            close_if_dead(folder)
        time.sleep(_LOOK)


class Showing(threading.Thread):
    """Shows a run in one tracker, which after a failure is made anew and played all of it."""

    def __init__(
        self,
        tracker: type[Sink],
        root: Path,
        folder: Path,
        past: int,
        say: Callable[[str], None],
    ) -> None:
        """Show the record in `folder`, `past` events of which are an earlier attempt's."""
        super().__init__(name=tracker.name, daemon=True)
        self._tracker, self._root, self._folder, self._past = tracker, root, folder, past
        self._say = say
        self._warned = False

    def run(self) -> None:
        """Show it, again after each failure; once the run has ended, just once again."""
        failed = ended = False
        while True:
            record = Growing(self._folder, self._past)
            try:
                return self._show(record)
            except Exception as error:
                if failed:
                    self._warn(self._tracker.why(error, self._root))
            if ended:
                return None
            deadline = time.monotonic() + (RETRY if failed else _SOON)
            while time.monotonic() < deadline and not record.has_ended():
                time.sleep(_LOOK)
            failed, ended = True, record.has_ended()

    def _show(self, record: Growing) -> None:
        """Show the record from its start to its end, as it grows."""
        tracker = self._tracker(self._root)
        while not record.ended:
            count = record.count
            for event in record.new_events():
                files = {file.name: self._folder / file.name for file in files_of(event)}
                tracker.handle(event, files)
            if record.count > count:
                tracker.flush()
                if self._warned and not tracker.owed:
                    self._say(f"{tracker.name} is back, and shows all that it missed.")
                    self._warned = False
            if record.ended:
                tracker.close()
            else:
                time.sleep(_LOOK)
            if tracker.owed:
                self._warn(f"some pictures, models or files are not there ({tracker.owed})")

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._say(
                f"warning: {self._tracker.name} unavailable: {why}; the run goes on and is "
                f"recorded, and {self._tracker.remedy}."
            )
        self._warned = True


if __name__ == "__main__":
    main()
