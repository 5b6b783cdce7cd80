"""The record of a run: what it holds, and what is refused of one that comes from elsewhere."""

import dataclasses
import hashlib
import json
import math
import os
import resource
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workspaces import Workspace

from records import end_run, new_run
from runrecord.errors import UserError
from runrecord.files import sha256, sha256_of_files, write_atomic
from runrecord.record.events import (
    Dataset,
    Logged,
    ModelEvaluated,
    RecordRefused,
    RunEnded,
    RunStarted,
    files_of,
)
from runrecord.record.reader import Record, RunView, files_in, view
from runrecord.record.recordable import Embedding, packed, png_of, unpack
from runrecord.record.writer import RecordWriter
from runrecord.resume.checkpoints import Arrays, Checkpoints
from runrecord.run.start import start_run
from runrecord.safety.text import printable
from runrecord.store.catalog import summary_of
from runrecord.store.runs import run_dir

VECTORS = Embedding(
    np.ones((3, 2), np.float32), np.zeros(3, np.uint8), np.zeros((3, 4, 4), np.uint8)
)
START = RunStarted("run-1", "train-ae", 1, "host", {"lr": 0.1}, {}, Dataset("mnist", "d", "data"))


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The record of a run that logged one of each, to damage at will."""
    folder = tmp_path / "record"
    run = new_run(folder, params={"lr": 0.1}, deps={"src/a.py": "a" * 64})
    run.log({"Train/Loss": 1.0}, step=1, within={"Train/Loss": [3.0, 2.0, 1.0]})
    run.image("samples", np.zeros((2, 3, 3), np.uint8), step=1)
    run.text("report", "text")
    (tmp_path / "vae.bin").write_bytes(b"weights")
    run.artifact(tmp_path / "vae.bin")
    run.tag(gpu="none")
    run.model(tmp_path / "vae.bin", step=1)
    series = {"KL": [(1, 0.5), (2, 0.25)]}
    run.evaluation("vae", tmp_path / "vae.bin", {"MSE": 0.5}, series, {"z": 8}, VECTORS)
    end_run(folder, outs={"vae.bin": hashlib.sha256(b"weights").hexdigest()})
    return folder


def lines(record: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (record / "events.jsonl").read_text().splitlines()]


def write_lines(record: Path, values: Sequence[object]) -> None:
    (record / "events.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))


def read(record: Path) -> list[object]:
    return list(Record(files_in(record)).events())


def test_a_sealed_record_is_what_the_store_has(here: Path) -> None:
    """Of each file that is not written again, the same one with two names."""
    (here / "model.bin").write_bytes(b"weights")
    with start_run("train") as run:
        run.log({"loss": 1.0})
        run.model("model.bin")
    sealed, kept = files_in(here / "records/train"), dict(files_in(run_dir(here, run.id)))
    del kept["lock"]
    assert contents(here / "records/train") == {n: path.read_bytes() for n, path in kept.items()}
    for name, path in sealed.items():
        assert path.samefile(kept[name]) is (name not in ("run.json", "events.jsonl"))
    (model,) = (path for name, path in sealed.items() if name.startswith("artifacts/"))
    assert not model.stat().st_mode & 0o222
    assert not model.samefile(here / "model.bin"), "a script may write its model again"


def test_a_field_that_a_later_version_adds_is_passed_over(record: Path) -> None:
    before = read(record)
    write_lines(record, [line | {"energy": 3.5} for line in lines(record)])
    assert read(record) == before


def test_half_a_last_line_is_passed_over_and_said(record: Path) -> None:
    whole = read(record)
    events = record / "events.jsonl"
    events.write_bytes(events.read_bytes()[:-20])
    opened = Record(files_in(record))
    assert opened.cut_off
    assert opened.end is None
    assert list(opened.events()) == whole[:-1]
    with pytest.raises(RecordRefused, match=r"'run\.json': the record has no such file"):
        Record({"events.jsonl": events})


ANOTHER, NONE = "its SHA-256 is another", "the record has no such file"
NO_FILE = {"name": "../x", "sha256": "0" * 64}


def first_of(folder: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
    """Something else in the place of the first file of that folder."""
    return lambda record: change(min((record / folder).iterdir()))


def more(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"x")


def with_output(record: Path) -> None:
    *rest, last = lines(record)
    write_lines(record, [*rest, last | {"output": NO_FILE}])


BAD_FILES: dict[str, tuple[Callable[[Path], object], str, Callable[[RunView], object]]] = {
    "another picture": (first_of("images", more), ANOTHER, lambda seen: seen.images),
    "no text": (first_of("texts", Path.unlink), NONE, lambda seen: seen.files.get("report")),
    "another model": (first_of("artifacts", more), ANOTHER, lambda seen: seen.models),
    "another embedding": (
        first_of("embeddings", more),
        ANOTHER,
        lambda seen: seen.evaluated["vae"].embedding,
    ),
    "no output": (with_output, NONE, lambda seen: [*seen.record.events()][-1].output),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_costs_that_file_alone(record: Path, name: str) -> None:
    change, why, lost = BAD_FILES[name]
    change(record)
    opened = Record(files_in(record))
    seen = view(opened)
    assert {*opened.damaged.values()} == {why}
    assert opened.damage() == f"{next(iter(opened.damaged))}: {why}"
    assert not lost(seen)
    assert seen.series.keys() == {"Train/Loss", "vae/MSE", "vae/KL"}
    assert seen.status == "FINISHED"
    unchecked = Record(files_in(record))
    assert len([*unchecked.events(files=False)]) == unchecked.length
    assert unchecked.damaged == {}


@pytest.mark.filterwarnings("ignore:_NoneStep.value")  # DVC's own
def test_files_that_dvc_linked_to_its_cache_are_read(record: Path, tmp_path: Path) -> None:
    from dvc.repo import Repo

    before = read(record)
    with Repo.init(str(tmp_path), no_scm=True) as repo, repo.config.edit() as settings:
        settings["cache"]["type"] = "symlink"
    with Repo(str(tmp_path)) as repo:
        repo.add(str(record))
        repo.checkout(relink=True, force=True)
    assert (record / "run.json").is_symlink()
    assert read(record) == before
    cached = next((record / "images").iterdir()).resolve()
    cached.chmod(0o644)
    cached.write_bytes(cached.read_bytes() + b"x")
    opened = Record(files_in(record))
    assert view(opened).images == {}
    assert [*opened.damaged.values()] == ["the record has no such file"]


def test_a_file_that_grows_while_it_is_logged_is_kept_as_it_was(tmp_path: Path) -> None:
    log, folder = tmp_path / "train.log", tmp_path / "record"
    run = new_run(folder)
    grown = threading.Event()
    ended = threading.Event()
    with log.open("wb", buffering=0) as file:

        def grow() -> None:
            while not ended.is_set() and file.tell() < 2**24:
                file.write(b"a line of the log\n")
                grown.set()

        thread = threading.Thread(target=grow)
        thread.start()
        try:
            grown.wait()
            for step in range(20):
                run.artifact(log, step=step)
        finally:
            ended.set()
            thread.join()
    record = end_run(folder)
    kept = [file for event in record.events() for file in files_of(event)]
    assert record.damaged == {}
    assert len(kept) == 20
    assert all(log.read_bytes().startswith(record.read(file.name)) for file in kept)


@pytest.mark.parametrize("kind", ["model", "artifact"])
@pytest.mark.parametrize("then", ["as it was", "another", "gone"])
def test_a_file_that_the_disk_had_no_room_for_is_never_another(
    tmp_path: Path, kind: str, then: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tmp_path / "record", tmp_path / "it.bin"
    run = new_run(folder)
    file.write_bytes(b"epoch 1")
    away = folder.rename(folder.with_name("away"))
    folder.write_text("in the way")
    getattr(run, kind)(file, step=1)
    if then == "gone":
        file.unlink()
    elif then == "another":
        file.write_bytes(b"epoch 2")
    folder.unlink()
    away.rename(folder)
    run.log({"loss": 1.0}, step=2)
    record = Record(files_in(folder))
    kept = [file for event in record.events(files=False) for file in files_of(event)]
    assert [record.read(one.name) for one in kept] == [b"epoch 1"] * (then == "as it was")
    assert [*record.events()] == [*record.events(files=False)]
    assert view(record).series["loss"][2] == (1.0, [])
    assert record.length == 3, "checkpoints count events"
    said = capsys.readouterr().err
    assert said.count(f"{file} is lost to the run's record") == (then != "as it was")


def test_a_line_that_the_disk_takes_in_parts_is_whole(tmp_path: Path) -> None:
    """A write that ends at a limit takes what fits and fails at the next attempt."""
    writer = RecordWriter(tmp_path / "record")
    writer.write(START)
    writer.write(Logged(1, 1, {"loss": 1.0}))
    size = (tmp_path / "record/events.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(OSError, match="events"):
            writer.write(Logged(2, 2, {"loss": 2.0}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.write(Logged(3, 3, {"loss": 3.0}))
    assert list(view(Record(files_in(tmp_path / "record"))).series["loss"]) == [1, 2, 3]


def test_an_embedding_comes_back() -> None:
    found = unpack(packed("vae", VECTORS))
    assert all(np.array_equal(getattr(found, name), array) for name, array in vars(VECTORS).items())


@pytest.mark.parametrize("run_id", ["../../etc", "/etc", "..", "", "a/../../b"])
def test_no_id_leads_out_of_the_run_store(tmp_path: Path, run_id: str) -> None:
    assert run_dir(tmp_path, run_id).resolve().parent == tmp_path / ".runrecord" / "runs"


class Odd:
    """What JSON has not."""


class Unreadable:
    """As a tensor that needs a gradient, or lies on a GPU."""

    def __array__(self, *_given: object, **_named: object) -> Any:
        raise RuntimeError("copy it to the CPU first")


class Still:
    """What no epoch changes."""

    def state_dict(self) -> Arrays:
        return {"one": np.ones(1)}

    def load_state_dict(self, arrays: Arrays) -> None: ...


def deep(levels: int = 5000) -> list[Any]:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


FILE, PIXELS = Path(__file__), np.zeros((2, 2), np.uint8)
PNG = png_of("png", PIXELS)
UNFIT = dataclasses.replace(VECTORS, labels=np.zeros(2, np.uint8))
REFUSED: dict[str, Callable[[Any], object]] = {
    "title of two lines": lambda run: run.log({"one\ntwo": 1.0}),
    "within alone": lambda run: run.log({"a": 1.0}, within={"b": [1.0, 2.0]}),
    "lone surrogate": lambda run: run.text("\ud800", "x"),
    "text for a number": lambda run: run.log({"a": "x"}),
    "text within": lambda run: run.log({"a": 1.0}, within={"a": [1.0, "x"]}),
    "negative step": lambda run: run.log({"a": 1.0}, step=-1),
    "half a step": lambda run: run.log({"a": 1.0}, step=1.5),
    "tag of a model": lambda run: run.tag(**{"model.id": "x"}),
    "tag of the host": lambda run: run.tag(host="x"),
    "commit that is an option": lambda run: run.tag(**{"git.commit": "-p"}),
    "no PNG": lambda run: run.image("a", b"no picture"),
    "floats for a picture": lambda run: run.image("a", np.zeros((2, 2))),
    "rows of several lengths": lambda run: run.image("a", [[1], [2, 3]]),
    "what NumPy cannot read": lambda run: run.image("a", Unreadable()),
    "five colours": lambda run: run.image("a", np.zeros((2, 2, 5), np.uint8)),
    "deep config": lambda run: run.evaluation("m", FILE, {"a": 1.0}, config={"x": deep()}),
    "x below 0": lambda run: run.evaluation("m", FILE, {"a": 1.0}, {"s": [(-1, 1.0)]}),
    "a metric that is a curve": lambda run: run.evaluation(
        "m", FILE, {"a": 1.0}, {"a": [(0, 1.0)]}
    ),
    "no points": lambda run: run.evaluation("m", FILE, {"a": 1.0}, {"s": [1.0]}),
    "labels that do not fit": lambda run: run.evaluation("m", FILE, {"a": 1.0}, embedding=UNFIT),
    "metrics without names": lambda run: run.log(0.5),
    "no such artifact": lambda run: run.artifact("missing.bin"),
    "a folder": lambda run: run.artifact(FILE.parent),
    "NUL in a path": lambda run: run.artifact("a\0b"),
    "no path": lambda run: run.model(None),
    "no figure": lambda run: run.figure("p", 5),
    "no embedding": lambda run: run.evaluation("m", FILE, {"a": 1.0}, embedding=5),
    "count of text": lambda run: next(run.epochs("3")),
    "no state": lambda run: next(run.epochs(3, object())),
    "two loops with a state": lambda run: [next(run.epochs(2, Still())) for _ in range(2)],
}


def test_what_is_refused_is_named_without_half_of_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", secret := "swordfish-" * 9)
    given: Any = secret
    with pytest.raises(UserError) as refusal:
        new_run(tmp_path / "record").log({"loss": 1.0}, step=given)
    assert "swordfish" not in str(refusal.value)


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_recorded_is_one_sentence_and_nothing_of_it_is_kept(
    tmp_path: Path, what: str
) -> None:
    run = new_run(tmp_path / "record")
    run.log({"before": 1.0})
    before, tags = contents(tmp_path / "record"), dict(run.tags)
    with pytest.raises(UserError) as refusal:
        REFUSED[what](run)
    assert len(str(refusal.value).splitlines()) == 1
    assert contents(tmp_path / "record") == before
    assert run.tags == tags
    run.log({"after": 1.0})
    assert list(view(end_run(tmp_path / "record")).series) == ["before", "after"]


def test_a_file_that_the_kernel_makes_up_is_kept_whole(tmp_path: Path) -> None:
    new_run(tmp_path).artifact("/proc/version")
    (kept,) = (tmp_path / "artifacts").iterdir()
    assert kept.read_bytes() == Path("/proc/version").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files_in(folder).items()}


@pytest.mark.parametrize(
    "params",
    [{"a": Odd()}, {"a": deep()}, {1: "a"}, {"a": 10**5000}],
    ids=["object", "deep", "number for a name", "long number"],
)
def test_params_that_cannot_be_recorded_end_a_run_before_its_work(
    here: Path, capsys: pytest.CaptureFixture[str], params: dict[Any, Any]
) -> None:
    with pytest.raises(SystemExit) as ended, start_run("train", params=params):
        pytest.fail("its work began")
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: cannot record this")
    assert not list(here.glob(".runrecord/runs/*/run.json"))


DAMAGE: list[object] = [
    *(None, True, -1, 2**70, math.inf, "", "../x", "\ud800", [], [[1]]),
    *({}, {"a": None}, {"a": {"b": "c"}}, {"ae": [["x"]]}),
]


def is_read(folder: Path) -> bool:
    """Is a record read? Else it is refused in one sentence; nothing else happens."""
    try:
        record = Record(files_in(folder))
        view(record)
        record.patch()
    except RecordRefused as refusal:
        said = str(refusal)
    else:
        return isinstance(record.last_sign_of_life, int)
    assert len(said.splitlines()) == 1
    return False


def test_a_record_with_other_values_is_read_or_refused_in_a_sentence(record: Path) -> None:
    folder = record
    start, whole = json.loads((folder / "run.json").read_text()), lines(folder)
    outcomes = set()
    for value in DAMAGE:
        for key in [*start, "command", "models", "other"]:
            (folder / "run.json").write_text(json.dumps(start | {key: value}))
            outcomes.add(is_read(folder))
        (folder / "run.json").write_text(json.dumps(value))
        assert not is_read(folder)
        (folder / "run.json").write_text(json.dumps(start))
        for number, line in enumerate(whole):
            for key in line:
                write_lines(folder, [*whole[:number], line | {key: value}, *whole[number + 1 :]])
                outcomes.add(is_read(folder))
            write_lines(folder, [*whole[:number], value, *whole[number + 1 :]])
            assert not is_read(folder)
        write_lines(folder, whole)
    assert outcomes == {True, False}
    assert is_read(folder)


def test_what_a_run_writes_through_a_memory_map_is_hashed_as_it_is_then(here: Path) -> None:
    """Such a file keeps its times."""
    found = []
    with start_run("train") as run:
        array = np.lib.format.open_memmap(here / "model.bin", "w+", np.float64, (4,))
        for value in (1.0, 2.0, 3.0):
            array[:] = value
            time.sleep(0.06)
            found.append(hashlib.sha256((here / "model.bin").read_bytes()).hexdigest())
            if value < 3:
                run.evaluation("w", "model.bin", {"value": value})
    events = [*Record(files_in(run_dir(here, run.id))).events()]
    assert [one.sha256 for one in events if isinstance(one, ModelEvaluated)] == found[:2]
    assert isinstance(events[-1], RunEnded)
    assert events[-1].outs["model.bin"] == found[2]


def test_no_two_names_of_files_are_one_in_the_hash_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    names = ["a\nb", "a\\nb", "a\\\nb", "a\\\\nb"]
    assert len({sha256_of_files({name: tmp_path / "file"}) for name in names}) == len(names)
    line = f"{sha256(b'1')}  a b\n".encode()
    assert sha256_of_files({"a b": tmp_path / "file"}) == sha256(line)


NUMBERS = (
    st.floats()
    | st.integers(-(2**70), 2**70)
    | st.floats(width=32).map(np.float32)
    | st.integers(0, 255).map(np.uint8)
    | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308])
)
TITLES = ["손실/학습 %", "a//b", "../x", "/root", "." * 3, "🙂 ✓", "_x41_", "%" * 250, "x" * 251]
TITLE = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(TITLES)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
TEXT = st.text(st.characters(codec=None), max_size=20)
STEPS = st.integers(-1, 2**60) | st.integers(0, 9).map(np.int64) | st.none()
LOG: dict[str, tuple[Any, Callable[..., object], Callable[..., object]]] = {
    "log": (
        st.tuples(NUMBERS, STEPS),
        lambda run, title, value, step, _: run.log({title: value}, step),
        lambda seen, title, step: seen.series[title][step][0],
    ),
    "within": (
        st.tuples(st.lists(NUMBERS, max_size=3), STEPS),
        lambda run, title, value, step, _: run.log({title: 1.0}, step, {title: value}),
        lambda seen, title, step: seen.series[title][step][1],
    ),
    "observe": (
        st.tuples(NUMBERS, st.none()),
        lambda run, title, value, *_: run.observe({title: value}),
        lambda seen, title, _: seen.observed[title][-1],
    ),
    "text": (
        st.tuples(TEXT, STEPS),
        lambda run, title, value, step, _: run.text(title, value, step),
        lambda seen, title, _: seen.record.read(seen.files[title].name).decode(),
    ),
    "tag": (
        st.tuples(TEXT, st.none()),
        lambda run, title, value, *_: run.tag(**{title: value}),
        lambda seen, title, _: seen.tags[title],
    ),
    "image": (
        st.tuples(st.just(PNG), STEPS),
        lambda run, title, value, step, _: run.image(title, value, step),
        lambda seen, title, step: seen.record.read(seen.images[title, step].name),
    ),
    "artifact": (
        st.tuples(st.binary(max_size=9), STEPS),
        lambda run, title, _, step, file: run.artifact(file, title or None, step),
        lambda seen, title, _: seen.record.read(seen.files[title or "it.bin"].name),
    ),
    "model": (
        st.tuples(st.binary(max_size=9), STEPS),
        lambda run, title, _, step, file: run.model(file, title or None, step),
        lambda seen, *_: seen.record.read(seen.models[-1].file.name),
    ),
    "metrics": (
        st.tuples(NUMBERS, st.none()),
        lambda run, title, value, _, file: run.evaluation("vae", file, {title: value}),
        lambda seen, title, _: seen.evaluated["vae"].metrics[title],
    ),
    "config": (
        st.tuples(VALUES, st.none()),
        lambda run, title, value, _, file: run.evaluation("vae", file, {}, config={title: value}),
        lambda seen, title, _: seen.evaluated["vae"].config[title],
    ),
    "series": (
        st.tuples(st.tuples(st.integers(-1, 2**60), NUMBERS), st.none()),
        lambda run, title, value, _, file: run.evaluation("vae", file, {}, {title: [value]}),
        lambda seen, title, _: seen.evaluated["vae"].series[title],
    ),
}
"""By kind: what is logged and its step, how, and where a record's view has it."""
CALLS = st.one_of(
    *(st.tuples(st.just(kind), TITLE, values) for kind, (values, _, _) in LOG.items())
)


def plain(value: Any) -> str:
    """A value as JSON of Python's has it: NaN is itself, and a number of NumPy's a number."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        value = value.encode(errors="replace").decode()
    return json.dumps(value, default=lambda number: float(number))


def no_number(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@given(
    params=st.dictionaries(TITLE, VALUES, max_size=3) | st.dictionaries(st.just("a"), VALUES),
    calls=st.lists(CALLS, max_size=4),
)
@settings(
    deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
def test_whatever_is_accepted_is_read_again_as_it_was_given(
    params: dict[str, Any], calls: list[tuple[str, str, tuple[Any, Any]]]
) -> None:
    refused: list[str] = []
    with TemporaryDirectory() as place:
        folder, file = Path(place) / "record", Path(place) / "it.bin"
        try:
            run = new_run(folder, params=params)
        except UserError as refusal:
            refused.append(str(refusal))
            params, run = {}, new_run(folder)
        for kind, title, (value, step) in calls:
            file.write_bytes(value if isinstance(value, bytes) else b"model")
            try:
                LOG[kind][1](run, title, value, step, file)
            except UserError as refusal:
                refused.append(str(refusal))
                continue
            seen = view(Record(files_in(folder)))
            wanted = value if kind not in ("log", "observe", "metrics") else float(value)
            if kind == "within":
                wanted = [float(one) for one in value]
            if kind == "series":
                wanted = [(value[0], float(value[1]))]
            assert plain(LOG[kind][2](seen, title, step or 0)) == plain(wanted), kind
        assert plain(view(end_run(folder)).start.params) == plain(params)
        for line in (folder / "events.jsonl").read_text().splitlines():
            json.loads(line, parse_constant=no_number)
        json.loads((folder / "run.json").read_text(), parse_constant=no_number)
    assert [text for text in refused if printable(text) != text] == []


def test_numbers_that_json_has_not_are_read_as_they_were_written_before(record: Path) -> None:
    """Records of before have them bare; a param's text that looks as one is a text."""
    whole = (record / "events.jsonl").read_text()
    (record / "events.jsonl").write_text(whole.replace('{"Train/Loss":1.0}', '{"Train/Loss": NaN}'))
    assert math.isnan(view(Record(files_in(record))).series["Train/Loss"][1][0])
    params = {"a": "NaN", "b": math.nan, "c": {"d": [-math.inf, "Infinity"]}}
    new_run(record, params=params)
    written = (record / "run.json").read_text()
    assert json.loads(written)["params"]["b"] == {"__float__": "NaN"}
    assert plain(Record(files_in(record)).start.params) == plain(params)
    bare = json.dumps(json.loads(written) | {"params": {"b": math.inf}})
    (record / "run.json").write_text(bare)
    assert Record(files_in(record)).start.params == {"b": math.inf}


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def readable_by_others(folder: Path, umask: int) -> list[str]:
    """What is there and may be read, written or entered by whom the umask excludes."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & umask
    ]


@pytest.mark.parametrize("umask", [0o077, 0o002], indirect=True, ids=oct)
def test_files_are_for_whom_the_umask_has_them(umask: int, tmp_path: Path) -> None:
    run = new_run(tmp_path / "record", params={"lr": 0.1})
    model = tmp_path / "model.bin"
    write_atomic(model, b"weights")
    run.model(model)
    run.text("notes", "text")
    RecordWriter(tmp_path / "record", Record(files_in(tmp_path / "record")).size).seal(
        tmp_path / "records/train", RunEnded(9, "FINISHED")
    )
    Checkpoints(tmp_path, {}).save("run-1", 1, 1, {"weights": np.zeros(3)}, 0, {})
    summary_of(tmp_path / "record")
    assert readable_by_others(tmp_path, umask) == []
    (kept,) = (tmp_path / "records/train/artifacts").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o444 & ~umask
    (checkpoint,) = (tmp_path / ".runrecord/checkpoints").rglob("*.safetensors")
    for path in (model, checkpoint, tmp_path / "record/run.json"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.slow
def test_a_run_and_its_trackers_keep_to_the_umask(toy: Workspace) -> None:
    toy.run("sh", "-c", "umask 077; exec python train.py")
    kept = ("mlruns", "tensorboard", ".runrecord", "records/train")
    found = [name for part in kept for name in readable_by_others(toy.path / part, 0o077)]
    assert found == []
    files = [*toy.path.glob("mlflow.db*"), toy.path / "mlruns"]
    assert [path.name for path in files if path.stat().st_mode & 0o077] == []


def test_a_title_in_the_place_of_values_stands_for_that_titles_values(record: Path) -> None:
    values = lines(record)
    values[0]["steps"] |= {"b": "Train/Loss"}  # type: ignore[operator]
    write_lines(record, values)
    assert view(Record(files_in(record))).series["b"][1][1] == [3.0, 2.0, 1.0]


def test_what_is_big_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    weights = np.zeros(2**22)
    checkpoints = Checkpoints(tmp_path, {})
    run = new_run(tmp_path / "record")
    for _ in range(40):
        run.log({"a": 1.0}, 1, {"a": [0.123456789] * 10_000})
    model = tmp_path / "model.bin"
    model.write_bytes(bytes(2**24))
    tracemalloc.start()
    try:
        run.model(model)
        checkpoints.save("run-1", 1, 1, {"weights": weights}, 0, {})
        record = Record(files_in(tmp_path / "record"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert record.length == 42
    assert record.size > 2**22
    assert peak < 2**21
