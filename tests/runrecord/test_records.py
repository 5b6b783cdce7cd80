"""The record of a run: what it holds, and what is refused of one that comes from elsewhere."""

import dataclasses
import hashlib
import io
import json
import math
import posixpath
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from helpers import Workspace, end_run, history, new_run
from PIL import Image

from runrecord.errors import UserError
from runrecord.events import Dataset, Logged, ModelEvaluated, ModelSaved, RunEnded, RunStarted
from runrecord.record.embedding import unpack
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import RecordRefused
from runrecord.record.writer import RecordWriter
from runrecord.run_store import run_dir
from runrecord.run_view import view
from runrecord.sinks.names import key_for, name_for, title_of

START = RunStarted("run-1", "train-ae", 1, "host", {"lr": 0.1}, {}, Dataset("mnist", "d", "data"))


@pytest.fixture
def record(built: Workspace, tmp_path: Path) -> Path:
    """A copy of the VAE's record, to damage at will."""
    return Path(shutil.copytree(built.path / "records" / "vae", tmp_path / "record"))


def lines(record: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (record / "events.jsonl").read_text().splitlines()]


def write_lines(record: Path, values: list[dict[str, object]]) -> None:
    (record / "events.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))


def read(record: Path) -> list[object]:
    return list(Record(files_in(record)).events())


@pytest.mark.parametrize("model", ["ae", "vae"])
def test_a_record_holds_every_epoch_every_step_every_picture_and_the_model(
    built: Workspace, model: str
) -> None:
    folder = built.path / "records" / model
    seen = view(Record(files_in(folder)))
    assert seen.start.params["latent_dim"] == built.params()[model]["latent_dim"]
    rows = history(built, model)
    assert seen.series.keys() == rows[0].keys() - {"epoch"}
    for name, series in seen.series.items():
        assert {step: value for step, (value, _) in series.items()} == {
            int(row["epoch"]): float(row[name]) for row in rows
        }
        assert {len(within) for _, within in series.values()} == {3 if "Train" in name else 2}
    assert [step for _, step in seen.images] == [int(row["epoch"]) for row in rows]
    for image in seen.images.values():
        assert seen.record.read(image.name).startswith(b"\x89PNG")
    (saved,) = seen.models
    content = seen.record.read(saved.file.name)
    assert content == built.read(f"models/{model}.safetensors")
    assert saved.file.sha256 == hashlib.sha256(content).hexdigest()
    assert seen.status == "FINISHED"


def test_a_sealed_record_is_what_the_store_has(built: Workspace) -> None:
    for what in ("ae", "vae", "evaluation"):
        sealed = files_in(built.path / "records" / what)
        name = Record(sealed).start.id
        spooled = dict(files_in(built.path / ".runrecord" / "runs" / name))
        del spooled["lock"]
        assert sealed.keys() == spooled.keys()
        for file, path in sealed.items():
            assert path.read_bytes() == spooled[file].read_bytes(), file


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


def with_start(**values: object) -> Callable[[Path], None]:
    def change(record: Path) -> None:
        path = record / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def with_first_line(**values: object) -> Callable[[Path], None]:
    def change(record: Path) -> None:
        first, *rest = lines(record)
        write_lines(record, [first | values, *rest])

    return change


def with_broken_line(record: Path) -> None:
    first, second, *rest = (record / "events.jsonl").read_text().splitlines(keepends=True)
    (record / "events.jsonl").write_text("".join([first, second[:40] + "\n", *rest]))


def with_another_model(record: Path) -> None:
    (model,) = (record / "artifacts").iterdir()
    with model.open("ab") as file:
        file.write(b"x")


def with_a_picture_that_is_none(record: Path) -> None:
    (image, *_) = sorted((record / "images").rglob("*.png"))
    image.write_text("<script>alert(1)</script>")


def with_a_link_to_the_outside(record: Path) -> None:
    (image, *_) = sorted((record / "images").rglob("*.png"))
    outside = record.parent / "private.png"
    image.rename(outside)
    image.symlink_to(outside)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(with_start(format=3), "reads up to 2; update", id="newer format"),
        pytest.param(with_start(id="../../etc"), "'../../etc' is no id of a run", id="id"),
        pytest.param(with_start(stage="a\nb"), "is no name", id="stage"),
        pytest.param(with_start(time="now"), "run.json: time: ", id="time"),
        pytest.param(
            with_start(tags={"mlflow.note.content": "<script>"}),
            "the tag 'mlflow.note.content' is not a record's to set",
            id="tag of MLflow's",
        ),
        pytest.param(
            with_first_line(images={"x": {"name": "../../../etc/passwd", "sha256": "0" * 64}}),
            "it names '../../../etc/passwd', which is none of its files.",
            id="image outside",
        ),
        pytest.param(
            with_first_line(images={"x": {"name": "/etc/passwd", "sha256": "0" * 64}}),
            "none of its files",
            id="absolute image",
        ),
        pytest.param(
            with_first_line(
                event="model",
                name="vae",
                file={"name": "../x", "sha256": "0" * 64},
                filename="x",
                step=1,
            ),
            "it names '../x', which is none of its files.",
            id="artifact outside",
        ),
        pytest.param(
            with_first_line(
                event="model",
                name="x",
                file={"name": "run.json", "sha256": "0" * 64},
                filename="../x",
                step=1,
            ),
            "'../x' is no file's name",
            id="artifact's name",
        ),
        pytest.param(with_broken_line, "events.jsonl, line 2: it: Invalid JSON", id="broken line"),
        pytest.param(with_another_model, "is damaged: its SHA-256 is another.", id="other model"),
        pytest.param(
            with_a_picture_that_is_none, "is damaged: its SHA-256 is another", id="no picture"
        ),
        pytest.param(with_a_link_to_the_outside, "which is none of its files.", id="link"),
        pytest.param(lambda record: (record / "run.json").unlink(), "'run.json'", id="no start"),
        pytest.param(
            lambda record: (record / "run.json").write_text("[]"), "it is no JSON", id="no object"
        ),
    ],
)
def test_a_record_that_is_not_to_be_trusted_is_refused(
    record: Path, change: Callable[[Path], None], message: str
) -> None:
    change(record)
    with pytest.raises(RecordRefused) as refusal:
        read(record)
    assert message in str(refusal.value)


def test_files_that_dvc_linked_to_its_cache_are_read(workspace: Workspace) -> None:
    before = read(workspace.path / "records" / "vae")
    workspace.run("dvc", "config", "cache.type", "symlink")
    workspace.run("dvc", "checkout", "--relink", "--force", "train-vae")
    assert (workspace.path / "records" / "vae" / "run.json").is_symlink()
    assert read(workspace.path / "records" / "vae") == before


def test_what_could_not_be_written_is_written_with_the_next_event(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    journal = RecordWriter(folder)
    journal.write(START)
    epochs = [Logged(n, n, {"Train/x": 1.5}, {"Train/x": [1.5]}) for n in (1, 2, 3)]
    journal.write(epochs[0])
    events = folder / "events.jsonl"
    with events.open("ab") as file:
        file.write(b'{"half')  # as a full disk leaves it
    size = events.stat().st_size
    folder.rename(tmp_path / "away")
    folder.write_text("in the way")
    with pytest.raises(OSError, match="events"):
        journal.write(epochs[1])
    folder.unlink()
    (tmp_path / "away").rename(folder)
    assert events.stat().st_size == size
    journal.write(epochs[2])
    assert read(folder) == [START, *epochs]


def test_the_embedding_of_an_evaluation_comes_back(built: Workspace) -> None:
    record = Record(files_in(built.path / "records" / "evaluation"))
    evaluated = view(record).evaluated["vae"]
    assert evaluated.embedding is not None
    embedding = unpack(record.read(evaluated.embedding.name))
    assert embedding.vectors.shape == (128, 8)
    assert embedding.thumbnails.shape == (128, 28, 28)
    assert sorted(set(embedding.labels.tolist())) == list(range(10))
    assert evaluated.config["latent_dim"] == 8
    assert [x for x, _ in evaluated.series["Likelihood/KL by Unit"]] == list(range(1, 9))


def test_a_damaged_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="no embedding, or damaged"):
        unpack(b"none")
    arrays: dict[str, npt.NDArray[Any]] = {
        "codes": np.zeros((3, 2), np.float32),
        "labels": np.zeros(2, np.uint8),
        "images": np.zeros((3, 4, 4), np.uint8),
    }
    with pytest.raises(ValueError, match="do not fit"):
        unpack(safetensors.numpy.save(arrays))


@pytest.mark.parametrize("run_id", ["../../etc", "/etc", "..", "", "a/../../b"])
def test_no_id_leads_out_of_the_run_store(tmp_path: Path, run_id: str) -> None:
    assert run_dir(tmp_path, run_id).resolve().parent == tmp_path / ".runrecord" / "runs"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "../x"),
        ("stage", ""),
        ("params", {"a\n": 1}),
        ("params", {"x" * 251: 1}),
        ("tags", {"git.commit": "-p"}),
        ("deps", {"a": "none"}),
    ],
)
def test_a_start_that_could_not_be_read_again_is_none(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"is no |begins with|has no SHA-256"):
        dataclasses.replace(START, **{field: value})  # type: ignore[arg-type]


def test_what_json_has_not_is_refused_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    run = new_run(tmp_path / "record")
    size = (tmp_path / "record" / "run.json").stat().st_size
    with pytest.raises(UserError, match="this cannot be recorded: "):
        run.log({"one\ntwo": 1.0})
    with pytest.raises(UserError, match="this cannot be recorded: "):
        run.tag(bad="x", **{"mlflow.user\x00": "y"})
    with pytest.raises(UserError, match="should be uint8"):
        run.image("noise", np.zeros((2, 2)))
    assert not (tmp_path / "record" / "events.jsonl").exists()
    assert (tmp_path / "record" / "run.json").stat().st_size == size


TITLES = ["손실/학습 %", "a//b", "../x", "/root", "." * 3, "🙂 ✓", "_x41_", "x" * 250, "%" * 250]


def test_any_title_and_any_number_is_read_again(tmp_path: Path) -> None:
    params = {"목록": [1, None, "둘"], "none": None, "nan": float("nan"), "a.b": {"c": True}}
    run = new_run(tmp_path / "record", params=params)
    run.log({title: number for number, title in enumerate(TITLES)}, step=3)
    run.log({"nan": math.nan, "inf": -math.inf}, step=4)
    for title in TITLES:
        run.image(title, np.zeros((2, 3), np.uint8))
        run.text(title, title)
    seen = view(end_run(tmp_path / "record"))
    assert json.dumps(seen.start.params) == json.dumps(params)
    assert {title: seen.series[title][3][0] for title in TITLES} == {
        title: number for number, title in enumerate(TITLES)
    }
    assert math.isnan(seen.series["nan"][4][0])
    assert seen.series["inf"][4][0] == -math.inf
    assert [title for title, _ in seen.images] == TITLES
    assert [seen.record.read(seen.files[title].name).decode() for title in TITLES] == TITLES


def test_titles_are_mapped_for_mlflow_one_to_one_and_back() -> None:
    for mapped in (name_for, key_for):
        names = [mapped(title) for title in TITLES]
        assert len(set(names)) == len(TITLES)
        assert all(len(name) <= 250 for name in names)
        assert [title_of(name) for name in names][:-1] == TITLES[:-1], "the last is too long"
    for title in TITLES:
        assert re.fullmatch(r"[/\w.\- :]+", name_for(title))
        assert posixpath.normpath(name_for(title)) == name_for(title)
        assert not name_for(title).startswith(("/", ".."))
        assert re.fullmatch(r"[a-zA-Z0-9_\-./ ]+", key_for(title))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A record as version 0.1 wrote it."""
    folder = tmp_path / "old"
    (folder / "images").mkdir(parents=True)
    (folder / "projections").mkdir()
    (folder / "model.bin").write_bytes(b"weights")
    image = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(image, format="png")
    (folder / "images" / "1.png").write_bytes(image.getvalue())
    (folder / "projections" / "ae.safetensors").write_bytes(b"vectors")
    digest = hashlib.sha256(b"weights").hexdigest()
    start = {
        "format": 1,
        "id": "run-1",
        "stage": "train-ae",
        "time": 5,
        "host": "host",
        "params": {"lr": 0.1},
        "tags": {},
        "dataset": {"name": "mnist", "digest": "d", "source": "data"},
        "models": {"ae": digest},
        "deps": {},
        "patch": None,
    }
    (folder / "run.json").write_text(json.dumps(start))
    images = {"Original": "images/1.png"}
    model = {"name": "ae", "file": "model.bin", "sha256": digest, "epoch": 1}
    found = {"figures": {"ae": {"MSE": 0.5}}, "series": {"ae": {"KL": [[1, 2.0]]}}}
    end = {"status": "FINISHED", "message": "", "traceback": "", "changed": [], "outs": {}}
    write_lines(
        folder,
        [
            {"event": "epoch", "time": 6, "epoch": 1, "means": {"L": 2.0}, "steps": {"L": [3, 1]}}
            | {"images": images},
            {"event": "resumed", "time": 7, "epoch": 1},
            {"event": "model", "time": 8, **model},
            {"event": "evaluation", "time": 9, "images": images, "configs": {"ae": {"z": 4}}}
            | {"projections": {"ae": "projections/ae.safetensors"}, **found},
            {"event": "end", "time": 10, **end},
        ],
    )
    return folder


def test_a_record_of_format_1_is_read_as_events_of_today(old: Path) -> None:
    events = read(old)
    assert [type(event).__name__ for event in events] == [
        *("RunStarted", "Logged", "Resumed", "ModelSaved", "Logged", "ModelEvaluated", "RunEnded")
    ]
    seen = view(Record(files_in(old)))
    assert seen.series == {
        "L": {1: (2.0, [3, 1])},
        "ae/MSE": {0: (0.5, [])},
        "ae/KL": {1: (2.0, [])},
    }
    assert isinstance(events[3], ModelSaved)
    assert isinstance(events[5], ModelEvaluated)
    assert events[5].sha256 == events[3].file.sha256
    assert isinstance(events[6], RunEnded)
    assert seen.last_images().keys() == {"Original"}


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("damage", [None, 1, "x", [], {}])
def test_a_damaged_record_of_format_1_is_refused_in_a_sentence(
    old: Path, number: int, damage: object
) -> None:
    whole, said = lines(old), []
    for key in whole[number]:
        changed = list(whole)
        changed[number] = {**whole[number], key: damage}
        write_lines(old, changed)
        refused = ""
        with suppress(RecordRefused):
            read(old)
            refused = "nothing"
        said.append(refused)
    assert "" in said, "something of it is needed"
