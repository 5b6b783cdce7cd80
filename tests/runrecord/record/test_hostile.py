"""Records and text from elsewhere: read, shown at most, and nothing else is done with them."""

import json
import math
import os
import shutil
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workspaces import Workspace, new_repository

import runrecord.record.reader
from models import ae
from records import end_run, new_run
from runrecord.cli.console import json_document
from runrecord.cli.pages import report
from runrecord.cli.runs import list_runs, show, which
from runrecord.cli.upkeep import doctor, gc, reap, sync
from runrecord.cli.verify import show_comparison, verify
from runrecord.files import sha256
from runrecord.git.commands import commit_of
from runrecord.record.events import (
    Dataset,
    Event,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Observed,
    RunEnded,
    RunStarted,
)
from runrecord.record.reader import Record, files_in
from runrecord.record.recordable import Embedding
from runrecord.record.writer import RecordWriter, file_for
from runrecord.run.process import exit_status
from runrecord.safety.text import printable, reason, shown
from runrecord.trackers.player import Store
from runrecord.verify.rebuild import _environment

CHARACTERS = [
    *"\0\a\b\n\v\f\r\x0e\x7f\x85\x9b\x9d\xa0\xad\u061c\u200b\u200d\u200f\u2028\u2029\u202e\u202c\u2060\u2066",
    *("\ufeff", "\ufff9", "\ue000", "\ufffe", "\uffff", "\U000e0041", "\U0010ffff"),
    *("\x1b[2J", "\x1b]0;owned\x07", "\x1b]8;;http://evil\x1b\\", "\x1bP+q\x1b\\", "\x9d0;x\x9c"),
    *("a" + "\u0301" * 50, "a" + "\u20dd" * 50, "\ud800", "\udcff"),
]
"""What may not reach a terminal as it is; lone surrogates last."""

STEERING = "".join(CHARACTERS[:-2])
MARKUP = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> [x](javascript:alert(1))"
EVIL = f"{STEERING}{MARKUP}[red]"
"""JSON can have all of it, a title only what is no control."""
TITLE = "".join(c for c in EVIL if category(c) != "Cc")[:200]


def harmless(text: str) -> bool:
    """May that stand on a terminal, in some lines?"""
    marks = 0
    for character in text:
        marks = marks + 1 if category(character) in ("Mn", "Me") else 0
        if marks > 5 or not (character.isprintable() or character in "\n\t"):
            return False
    return True


@given(text=st.lists(st.sampled_from(CHARACTERS) | st.text(st.characters(codec=None))).map("".join))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_any_text_is_made_harmless(text: str) -> None:
    for found in (printable(text), reason(ValueError(text)), shown(text)):
        assert harmless(found)
    assert "\n" not in printable(text)
    assert printable(printable(text)) == printable(text)


LANGUAGES = [
    *("plain", "한국어 🙂\tü", "Ελληνικά", "עברית", "العربية", "हिन्दी", "ภาษาไทย", "漢字"),
    *("e\u0301", "❤\ufe0f", ""),
]


@pytest.mark.parametrize("text", LANGUAGES)
def test_ordinary_text_of_any_language_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_what_is_long_is_cut_where_it_would_fill_the_screen() -> None:
    assert printable("x" * 99, 5) == "xxxxx… (99 characters)"
    assert len(reason(ValueError("x" * 10**4))) < 1100


PNG = bytes.fromhex("89504e470d0a1a0a")


def png(width: int, height: int) -> bytes:
    """A small file that says it is a picture of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(4))
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


VECTORS = Embedding(np.ones((3, 2), np.float32), None, np.zeros((3, 4, 4), np.uint8))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository, a record that logged one of each, and what nobody may touch beside them."""
    place = tmp_path_factory.mktemp("hostile")
    root = new_repository(place / "repository")
    (place / "outside").mkdir()
    (place / "outside/victim.txt").write_text("as it was\n")
    (place / "outside/private.png").write_bytes(png(2, 2))
    (place / "victim.txt").write_text("as it was\n")
    (root / "victim.txt").write_text("as it was\n")
    folder = place / "record"
    run = new_run(folder, tags={"git.commit": str(commit_of(root, "HEAD"))})
    run.log({"Loss": 1.0}, step=1, within={"Loss": [2.0, 1.0]})
    run.image("samples", np.zeros((2, 3), np.uint8), step=1)
    run.text("notes", "text")
    run.artifact(place / "victim.txt")
    run.model(place / "victim.txt", name="vae", step=1)
    run.evaluation("vae", place / "victim.txt", {"MSE": 0.5}, {"KL": [(1, 0.5)]}, {}, VECTORS)
    end_run(folder, status="KILLED", message="stopped")
    return place


@pytest.fixture
def place(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that, its repository the current folder."""
    shutil.copytree(base, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place/repository")
    return tmp_path / "place"


def state(place: Path) -> dict[str, object]:
    """All files there and what they are, less what commands keep for themselves."""
    own = ("repository/.runrecord", "repository/mlflow.db", "repository/mlruns", "report.html")
    found: dict[str, object] = {}
    for path in sorted(place.rglob("*")):
        name, status = path.relative_to(place).as_posix(), path.lstat()
        if name.startswith((*own, "repository/tensorboard", "repository/.dvc/tmp")):
            continue
        small = stat.S_ISREG(status.st_mode) and status.st_size < 2**20
        content = sha256(path.read_bytes()) if small else status.st_size
        found[name] = status.st_mode, os.readlink(path) if path.is_symlink() else content
    return found


def said_by(capsys: pytest.CaptureFixture[str], command: Callable[[], Any]) -> str:
    """What a command prints, made harmless; a traceback would fail the test."""
    exit_status(command)
    out, err = capsys.readouterr()
    assert harmless(out + err), [c for c in out + err if not harmless(c)]
    return out + err


def as_json(command: Callable[..., Any], *given: Any) -> None:
    """A command with `--json`."""
    with json_document():
        command(*given)


Change = Callable[[Path], object]


def start(**values: object) -> Change:
    """run.json with other values."""

    def change(record: Path) -> None:
        document = json.loads((record / "run.json").read_text())
        (record / "run.json").write_text(json.dumps(document | values))

    return change


def tags(**values: str) -> Change:
    """More tags; `_` stands for a dot."""

    def change(record: Path) -> None:
        document = json.loads((record / "run.json").read_text())
        document["tags"] |= {name.replace("_", ".", 1): value for name, value in values.items()}
        (record / "run.json").write_text(json.dumps(document))

    return change


def line(kind: str, **values: object) -> Change:
    """The first line of that kind with other values."""

    def change(record: Path) -> None:
        lines = [json.loads(one) for one in (record / "events.jsonl").read_text().splitlines()]
        found = next(one for one in lines if one["event"] == kind and values.keys() <= {*one})
        found |= values
        (record / "events.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))

    return change


def text(name: str, content: bytes) -> Change:
    """Another content of a file."""
    return lambda record: (record / name).write_bytes(content)


def sparse(name: str, size: int) -> Change:
    """A file that takes no room and is larger than any memory."""

    def change(record: Path) -> None:
        with (record / name).open("wb") as file:
            file.truncate(size)

    return change


def image(make: Callable[[Path, Path], object]) -> Change:
    """Something else in the place of the picture, made from its path and the outside's."""

    def change(record: Path) -> None:
        (path,) = (record / "images").iterdir()
        path.unlink()
        make(path, record.parent / "outside")

    return change


def named(kind: str, title: str, content: bytes, **more: object) -> Change:
    """A file that an event names, by its right SHA-256."""

    def change(record: Path) -> None:
        (record / "artifacts/it").write_bytes(content)
        file = {"name": "artifacts/it", "sha256": sha256(content)}
        if kind == "embedding":
            line("evaluated", embedding=file)(record)
        else:
            line("logged", **{kind: {title: file}, **more})(record)

    return change


def other_patch(record: Path) -> None:
    start(patch={"name": "change.patch", **DIGEST})(record)
    (record / "change.patch").write_text("another\n")


def linked_start(record: Path) -> None:
    (record / "run.json").rename(record.parent / "outside/run.json")
    (record / "run.json").symlink_to(record.parent / "outside/run.json")


def cut(record: Path) -> None:
    content = (record / "events.jsonl").read_bytes()
    (record / "events.jsonl").write_bytes(content[:-20])


def short(value: object) -> str:
    """A value in the name of a test."""
    return ascii(value)[:20]


DIGEST = {"sha256": "0" * 64}
DEEP = b"[" * 10**6
NONE_OF_ITS = "the record has no such file"
NO_PICTURE = "it is not a PNG file, damaged, or too large"


def sparse_text(record: Path) -> None:
    (path,) = (record / "texts").iterdir()
    path.chmod(0o644)
    sparse(f"texts/{path.name}", 2**33)(record)


def linked_folder(record: Path) -> None:
    (record / "images").rename(record.parent / "outside/images")
    (record / "images").symlink_to(record.parent / "outside/images")


def folder_for_lines(record: Path) -> None:
    (record / "events.jsonl").unlink()
    (record / "events.jsonl").mkdir()


def duplicate(record: Path) -> None:
    content = (record / "run.json").read_text().rstrip()
    (record / "run.json").write_text(f'{content.removesuffix("}")}, "id": "../x"}}')


NO_EMBEDDING = "it is not an embedding, or damaged"
HEADER = b'{"codes":{"dtype":"F32","shape":[1,9],"data_offsets":[0,99999]}}'
VAST = b'{"codes":{"dtype":"F32","shape":[0,1152921504606846976],"data_offsets":[0,0]}}'
DAMAGED: dict[str, tuple[Change, str]] = {
    "a link to a folder outside": (linked_folder, NONE_OF_ITS),
    "a text of 8 GiB": (sparse_text, "has 8589934592 bytes, more than"),
    **{
        f"a picture at {short(name)}": (
            line("logged", images={"x": {"name": name, **DIGEST}}),
            NONE_OF_ITS,
        )
        for name in (
            *("../outside/private.png", "/etc/passwd", "images/../../victim.txt", "images\0x", ""),
            *("~/victim.txt", "images", "x" * 10**5, "\x1b[2J"),
        )
    },
    "a link to a file outside": (
        image(lambda path, outside: path.symlink_to(outside / "private.png")),
        NONE_OF_ITS,
    ),
    "a link to a device": (image(lambda path, _: path.symlink_to("/dev/zero")), NONE_OF_ITS),
    "a link to itself": (image(lambda path, _: path.symlink_to(path.name)), NONE_OF_ITS),
    "a pipe": (image(lambda path, _: os.mkfifo(path)), NONE_OF_ITS),
    "another picture": (image(lambda path, _: path.write_bytes(png(9, 9))), "SHA-256 is another"),
    "a model that is elsewhere": (
        line("model", file={"name": "../outside/victim.txt", **DIGEST}),
        NONE_OF_ITS,
    ),
    "a picture of a terapixel": (named("images", "x", png(2**20, 2**20)), NO_PICTURE),
    "a picture that is a page": (named("images", "x", b"<script>"), NO_PICTURE),
    "a picture cut off": (named("images", "x", png(2, 2)[:-9]), NO_PICTURE),
    **{
        f"an embedding, {what}": (named("embedding", "", content), NO_EMBEDDING)
        for what, content in {
            "values beyond its end": struct.pack("<Q", len(HEADER)) + HEADER,
            "of a vast shape": struct.pack("<Q", len(VAST)) + VAST,
            "a pickle": b"\x80\x04cos\nsystem\n(S'touch victim.txt'\ntR.",
        }.items()
    },
}
"""What costs a file, and why it is not used."""
REFUSED: dict[str, tuple[Change, str]] = {
    "a change that is another": (other_patch, "'change.patch': its SHA-256 is another."),
    "a change that is gone": (
        start(patch={"name": "change.patch", **DIGEST}),
        "'change.patch': the record has no such file.",
    ),
    "a beginning outside": (linked_start, NONE_OF_ITS),
    "a beginning of 8 GiB": (sparse("run.json", 2**33), "has 8589934592 bytes, more than"),
    "a line of 8 GiB": (sparse("events.jsonl", 2**33), "a line has more than"),
    **{
        f"the id {short(name)}": (start(id=name), "is not an id of a run")
        for name in ("../x", "..", "a\\b", "", "-x", "a\nb", "x" * 101, "한")
    },
    **{
        f"the commit {short(commit)}": (tags(git_commit=commit), "the tag 'git.commit'")
        for commit in ("--output=victim.txt", "HEAD", "a" * 39, "0" * 40 + "\n")
    },
    "a branch that is an option": (tags(git_branch="--output=x"), "'git.branch' begins with '-'"),
    "a tag of the record's": (tags(record_id="x"), "is not a record's to set"),
    "the last id of two": (duplicate, "'../x' is not an id of a run"),
    "a stage of two lines": (start(stage="a\nb"), "is not a name"),
    "a metric of two lines": (line("logged", metrics={"a\rb": 1.0}), "is not a name"),
    "a beginning nested a million deep": (text("run.json", DEEP), "it is not JSON"),
    "a line nested a million deep": (text("events.jsonl", DEEP + b"\n"), "events.jsonl, line 1: "),
    **{
        f"the start {short(time)}": (start(time=time), "time")
        for time in (-1, 2**70, True, 10**4000)
    },
    "the moment half": (line("logged", time=1.5), "events.jsonl, line 1: "),
    "the step below 0": (line("logged", step=-1), "events.jsonl, line 1: "),
    **{
        f"the format {short(version)}": (start(format=version), "update this checkout")
        for version in (3, "2", math.inf, "\x1b[2J")
    },
    "the format 1": (start(format=1), "check out commit ce461c1, which does"),
    "half a line": (
        text("events.jsonl", b'{"event": "logged", "ti\n'),
        "events.jsonl, line 1: it: Invalid JSON",
    ),
    "bytes that are no text": (text("run.json", b"\xff\xfe\x00{"), "it is not JSON"),
    "an event of no kind": (
        text("events.jsonl", b'{"event": "exec", "time": 1, "command": "touch victim.txt"}\n'),
        "events.jsonl, line 1: ",
    ),
    **{
        f"a model's file {short(name)}": (line("model", filename=name), "is not a file's name")
        for name in ("..", "a/b", "한" * 100)
    },
    "a metric that is a text": (line("logged", metrics={"a": "1e5"}), "metrics.a"),
    "an out without a digest": (line("end", outs={"a": "x"}), "is not a SHA-256"),
}
ITS = {"sha256": sha256(b"x")}
PATH_LIKE = ["../../x", "/etc/passwd", "a/../../b", "..", ".", "//", "a//b", "C:\\x", "~", "-x"]
READ: dict[str, Change] = {
    "infinite": lambda record: (record / "events.jsonl").write_bytes(
        (record / "events.jsonl").read_bytes().replace(b'{"Loss":1.0}', b'{"Loss": 1e999}')
    ),
    "metrics like paths": line("logged", metrics=dict.fromkeys(PATH_LIKE, 1.0)),
    "an archive that is never opened": named("artifacts", "evil.zip", b"PK\x03\x04" * 99),
    "texts like paths": named(
        "artifacts", "../../victim.txt", b"x", texts={"/etc/x": {"name": "artifacts/it", **ITS}}
    ),
    "a folder for its lines": folder_for_lines,
    "a stage that is an option": start(stage="--help"),
    "a stage like a path": start(stage="../../outside"),
    "a shell": tags(dvc_shell="/bin/sh -c 'touch victim.txt'"),
    "characters that steer": tags(note=EVIL, git_branch=EVIL, dvc_experiment=EVIL),
    "a long value": start(params={"a": "x" * 10**6, "b": [["y"] * 10**4]}),
    "deep params": start(params={"a": json.loads("[" * 90 + "]" * 90)}),
    "its last line cut off": cut,
    "a gigantic param": start(params={"a": 10**3000, "b": -1e308, "c": 1e-320}),
    "a command": start(command=["$(touch victim.txt)", "`touch victim.txt`", "; touch victim.txt"]),
}


FAMILIES = ("the id", "the commit", "the start", "the format", "a picture at")
"""Of which there are many: what one command makes of one of them, all do."""


@pytest.mark.parametrize("name", [*REFUSED, *DAMAGED, *READ])
def test_a_record_from_elsewhere_is_shown_or_refused_and_nothing_else_is_done(
    place: Path,
    name: str,
    base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runrecord.record.reader, "MOST", 2**24)  # of the limits; 256 MiB take long
    change, said = (REFUSED | DAMAGED).get(name) or (READ[name], "")
    change(place / "record")
    record, other = str(place / "record"), str(base / "record")
    before = state(place)
    commands: list[Callable[[], Any]] = [
        lambda: show(record),
        lambda: report([record], place / "report.html"),
        lambda: show_comparison(record, other, 0.01),
        lambda: as_json(show_comparison, other, record, 0.01),
        lambda: verify(record, 0.01, False, False),
    ]
    for command in commands[:1] if name.startswith(FAMILIES) else commands:
        output = said_by(capsys, command)
        if name in REFUSED or command is commands[0]:
            assert said in output, output
        assert ("its record cannot be used" in output) is (name in REFUSED)
    assert state(place) == before


def diff(name: str, content: str, mode: int = 100644) -> str:
    """Git's patch of a new file."""
    return (
        f"diff --git a/{name} b/{name}\nnew file mode {mode}\n--- /dev/null\n+++ b/{name}\n"
        f"@@ -0,0 +1 @@\n+{content}\n"
    )


LINK = diff("link", "../../../../../outside", 120000) + "\\ No newline at end of file\n"
PATCHES = {
    "above the tree": diff("../../../../victim.txt", "owned"),
    "absolute": diff("/tmp/victim.txt", "owned").replace("a//", "/").replace("b//", "/"),
    "a hook of Git's": diff(".git/hooks/post-checkout", "touch victim.txt"),
    "a hook, in other letters": diff(".GIT/hooks/post-checkout", "touch victim.txt"),
    "through a link": LINK + diff("link/victim.txt", "owned"),
    "options": "--output=victim.txt\n",
}


@pytest.mark.parametrize("name", PATCHES)
def test_a_change_that_leads_out_of_its_tree_is_not_applied(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a finished run, its SHA-256 corrected."""
    record, patch = place / "record", PATCHES[name]
    (record / "change.patch").write_text(patch)
    start(patch={"name": "change.patch", "sha256": sha256(patch.encode())})(record)
    line("end", status="FINISHED")(record)
    before = state(place)
    asked = said_by(capsys, lambda: verify(str(record), 0.01, False, False))
    assert "was never run from this repository on this machine" in asked
    refused = said_by(capsys, lambda: verify(str(record), 0.01, False, True))
    assert "Verdict: cannot be rebuilt: " in refused
    assert "Git refuses: " in refused or name == "absolute", "that is a name in the tree"
    assert state(place) == before


def test_no_variable_of_a_record_reaches_a_program_but_those_of_numbers(place: Path) -> None:
    names = ("LD_PRELOAD", "PATH", "PYTHONPATH", "BASH_ENV", "GIT_DIR", "OMP_NUM_THREADS")
    for value, reached in (("evil", ["OMP_NUM_THREADS"]), ("/evil", []), ("..\\evil", [])):
        tags(**{f"env_{name}": value for name in names})(place / "record")
        record = Record(files_in(place / "record"))
        found = _environment(record.start, place / "repository", Path("/usr/bin"))
        assert [name for name, text in found.items() if value in text] == reached


@pytest.mark.parametrize("name", ["a shell", "a stage that is an option", "a command"])
def test_nothing_of_a_record_is_run(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    READ[name](place / "record")
    line("end", status="FINISHED")(place / "record")
    before = state(place)
    output = said_by(capsys, lambda: verify(str(place / "record"), 0.01, False, False))
    assert "Verdict: cannot be rebuilt" in output
    assert state(place) == before


def written(folder: Path, run_id: str) -> None:
    """The record of a run of which every text is hostile."""
    folder.mkdir(parents=True)
    writer, evil = RecordWriter(folder), EVIL.replace("\0", "")
    begun = RunStarted(
        *(run_id, TITLE, 1, evil, {TITLE: evil, "nested": [{evil: evil}]}, {TITLE: evil}),
        dataset=Dataset(evil, evil, evil),
        deps={evil: "0" * 64},
        command=(evil, evil),
    )
    content = {"png": png(1, 1), "text": evil.encode()}
    files = {kind: file_for("artifacts", evil, sha256(it)) for kind, it in content.items()}
    held = {file.name: content[kind] for kind, file in files.items()}
    events: list[Event] = [
        Logged(2, 1, {TITLE: 1.0}, images={TITLE: files["png"]}, tags={"note": evil}),
        Logged(2, 1, {}, texts={TITLE: files["text"]}, artifacts={f"b{TITLE}": files["text"]}),
        Observed(3, {TITLE: 1.0}),
        ModelSaved(4, TITLE, files["text"], TITLE[:40].replace("/", ""), 1),
        ModelEvaluated(
            5, TITLE, "0" * 64, {TITLE: 1.0}, {TITLE: [(1, 1.0)]}, {TITLE: {evil: evil}}
        ),
        RunEnded(6, "FAILED", evil, evil, (evil,), {evil: files["text"].sha256}),
    ]
    writer.write(begun)
    for event in events:
        writer.write(event, held)


def test_every_text_of_a_record_is_harmless_in_every_command(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = place / "repository"
    runs = root / ".runrecord/runs"
    for name in ("evil-1", "evil-2"):
        written(runs / name, name)
    damaged = runs / os.fsdecode(b"damaged\xff\x1b[2J")
    written(damaged, "damaged")
    (damaged / "events.jsonl").write_bytes(b'{"\x1b[2J\n')
    (place / "made\x1b[2J").write_bytes(EVIL.replace("\0", "").encode())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter22@127.0.0.1:9/\x1b[2J")
    commands: dict[str, Callable[[], Any]] = {
        "runs": list_runs,
        "show": lambda: show("evil-1"),
        "show of none": lambda: show(EVIL.replace("\0", "")),
        "which": lambda: which(place / "made\x1b[2J"),
        "which of none": lambda: which(place / "record/run.json"),
        "compare": lambda: show_comparison("evil-1", "evil-2", 0.01),
        "compare with the other": lambda: show_comparison("evil-1", str(place / "record"), 0.01),
        "compare as JSON": lambda: as_json(show_comparison, "evil-1", str(place / "record"), 0.01),
        "runs as JSON": lambda: as_json(list_runs),
        "show as JSON": lambda: as_json(show, "evil-1"),
        "verify": lambda: verify("evil-1", 0.01, False, True),
        "report": lambda: report(["evil-1", "evil-2"], place / "report.html"),
        "report as Markdown": lambda: report(["evil-1", "evil-2"], Path(), markdown=True),
        "gc": lambda: gc(1, False),
        "reap": reap,
        "sync": lambda: sync(False, False),
        "doctor": doctor,
    }
    said = {name: said_by(capsys, command) for name, command in commands.items()}
    assert "damaged\ufffd\ufffd[2J" in said["runs"]
    assert "made by evil-1" in said["which"]
    assert "hunter22" not in "".join(said.values())
    page = (place / "report.html").read_text()
    assert harmless(page)
    assert "&lt;script&gt;" in page
    assert not [tag for tag in ("<script", "<img src=x", "href", 'alt=""') if tag in page]
    assert page.count("onerror") == page.count("&gt;&lt;img src=x onerror=alert(1)&gt;")


@pytest.mark.slow
def test_records_that_are_read_are_played_and_others_are_named(
    place: Path,
    empty_store: Path,
    base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them lie in one run store."""
    monkeypatch.setattr(runrecord.record.reader, "MOST", 2**24)
    root = place / "repository"
    shutil.copy(empty_store, root / "mlflow.db")
    (root / ".runrecord/runs").mkdir(parents=True)
    folders = {}
    for number, name in enumerate((*READ, *REFUSED, *DAMAGED)):
        shutil.copytree(base / "record", place / "record", dirs_exist_ok=True)
        start(id=f"run-{number}")(place / "record")
        ((REFUSED | DAMAGED).get(name) or (READ[name],))[0](place / "record")
        folders[name] = root / f".runrecord/runs/run-{number}"
        (place / "record").rename(folders[name])
    before = state(place)
    for command in (list_runs, lambda: which(place / "victim.txt")):
        assert f"{folders['a beginning outside']}: " in said_by(capsys, command)
    output = said_by(capsys, lambda: sync(False, True))
    ended = len(READ) - 2  # of two nobody knows whether they go on
    assert f"MLflow: {ended} created, 0 completed, 0 already there, " in output
    named_ones = [*REFUSED, *DAMAGED]
    silent = [name for name in named_ones if f"{folders[name]}: " not in output]
    assert silent == []
    assert [name for name in READ if f"{folders[name]}: " in output] == []
    assert state(place) == before
    infinite = Record(files_in(folders["infinite"]))
    assert Store(root).differences(infinite) == [], "MLflow has the largest number for infinity"
    assert f"{ended} already there" in said_by(capsys, lambda: sync(False, False))
    assert f"{folders['a beginning outside']}: " in said_by(capsys, reap)


@pytest.mark.slow
def test_a_model_is_run_by_its_own_code_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "ae.safetensors").write_bytes(ae().to_bytes())
    (tmp_path / "pack.py").write_text(
        "from pathlib import Path\n"
        "from mlflow.models import Model\n"
        "from generative.serving import save_model\n"
        "save_model(Path('ae.safetensors'), Path('one'), Model())\n"
    )
    Workspace(tmp_path).run("python", "pack.py")
    for name in ("equal", "other"):
        shutil.copytree(tmp_path / "one", tmp_path / name)
    with (tmp_path / "other/code/generative/models/ae.py").open("a") as file:
        file.write("\n\nTHIS_IS_OTHER_CODE = True\n")
    (tmp_path / "use.py").write_text(
        "import mlflow.pyfunc, numpy, sys\n"
        "sys.path = [p for p in sys.path if not p.endswith('/src')]\n"
        "one, equal = (mlflow.pyfunc.load_model(name) for name in ('one', 'equal'))\n"
        "images = numpy.random.default_rng(0).random((3, 1, 28, 28), numpy.float32)\n"
        "assert (one.predict(images) == equal.predict(images)).all()\n"
        "try:\n"
        "    mlflow.pyfunc.load_model('other')\n"
        "except ImportError as error:\n"
        "    print(f'refused: {error}')\n"
    )
    said = Workspace(tmp_path).run("python", "use.py")
    assert f"refused: {tmp_path}/other: this model has other code than the one that this" in said
    assert "models/ae.py differs); load it in a process of its own." in said
