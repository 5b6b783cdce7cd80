"""A record is stopped at every call by which it is written, one after another, none left out."""

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest
from stops import Call, Program, is_write, refusal, run_stopped, tear

from runrecord.files import sha256
from runrecord.record.events import File, Logged, ModelSaved, RunEnded, RunStarted
from runrecord.record.reader import Record, files_in
from runrecord.record.writer import RecordWriter

pytestmark = pytest.mark.needs("ptrace")

TEXT = File("texts/a.txt", sha256(b"a text"))
END = RunEnded(3, "FINISHED")


def write_a_record(folder: Path) -> None:
    """A run that was sealed before, is stopped, goes on, and is sealed again."""
    store, sealed = folder / "runs" / "run-1", folder / "records" / "train"
    writer = RecordWriter(store)
    writer.write(RunStarted("run-1", "train", 1, "host", {}, {}))
    model = folder / "model.bin"
    writer.write(Logged(2, 1, texts={"a": TEXT}), {TEXT.name: b"a text"})
    file, contents = writer.keep("artifacts", "model", model, ".bin")
    writer.write(ModelSaved(2, "model", file, model.name, 1), contents)
    writer.seal(sealed, END)
    writer.write(Logged(2, 2, {"loss": 1.0}))
    writer.seal(sealed, END)
    writer.write(END)


def length_of(folder: Path) -> int:
    """How many events the record has, of which each can be read; 0 if there is none."""
    return len([*Record(files_in(folder)).events()]) if (folder / "run.json").exists() else 0


_FILLS = ("write", "ioctl", "copy_file_range", "sendfile")


def unsafe(calls: list[Call]) -> list[Call]:
    """Those that fill a file which is not on the disk (fsync) before anything else is done."""
    found = []
    for number, call in enumerate(calls):
        after = (
            (one.name, one.path)
            for one in calls[number + 1 :]
            if (one.path != call.path or one.name not in (*_FILLS, "open"))
        )
        if call.name in _FILLS and next(after, None) != ("fsync", call.path):
            found.append(call)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", ["torn", "full", "broken"])
def test_a_record_is_whole_wherever_its_writing_stops(how: str, tmp_path: Path) -> None:
    base = tmp_path.resolve()
    folder, nothing = base / "work", os.open(os.devnull, os.O_WRONLY)
    calls: list[Call] = []
    ended: set[int] = set()

    def one(at: int | None) -> int:
        """Stopped at that call; without one, every call is noted."""
        count = 0

        def on_call(process: int, call: Call) -> int:
            nonlocal count
            count += 1
            if at is None:
                calls.append(call)
            elif count >= at and how != "torn":
                return refusal(errno.ENOSPC if how == "full" else errno.EIO, call)
            elif count == at:
                if is_write(call):
                    tear(call)
                os.kill(process, signal.SIGKILL)
            return 0

        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "model.bin").write_bytes(b"weights")
        program = Program(lambda: write_a_record(folder), folder, dict(os.environ))
        return run_stopped(program, nothing, folder, on_call, 60)

    assert one(None) == 0
    assert unsafe(calls) == []
    lines = [call for call in calls if call.path == f"{folder}/runs/run-1/events.jsonl"]
    assert [call.name for call in lines] == ["open", "ftruncate", "write", "fsync"] * 4
    for number in range(1, len(calls) + 1, 1 if how == "torn" else 2):
        status = one(number)
        ended.add(status)
        where = f"{how} at call {number}, {calls[number - 1]}"
        store, sealed = folder / "runs" / "run-1", folder / "records" / "train"
        assert length_of(store) in range(6), where
        if sealed.exists():
            record = Record(files_in(sealed))
            assert record.end == END, where
            assert [*record.events()][-1] == END, where
            assert "lock" not in files_in(sealed)
        if status == 0:
            assert (length_of(store), length_of(sealed)) == (5, 5), where
        if length_of(store):
            RecordWriter(store, Record(files_in(store)).size).seal(sealed, END)
            left = [path.name for path in sealed.parent.iterdir()]
            assert left == ["train"], f"{where} leaves {left}"
    os.close(nothing)
    assert ended - {0} == {-signal.SIGKILL if how == "torn" else 1}
