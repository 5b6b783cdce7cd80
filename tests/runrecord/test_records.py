"""The record of a run: what it holds, and what is refused of one that comes from elsewhere."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
import safetensors.numpy
from helpers import Workspace, history

from runrecord.errors import UserError
from runrecord.events import Dataset, EpochEnded, EvaluationEnded, RunEnded, RunStarted
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import RecordRefused
from runrecord.record.writer import RecordWriter
from runrecord.run_store import run_dir

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
    start, *epochs, saved, end = read(folder)
    assert isinstance(start, RunStarted)
    assert start.params["latent_dim"] == built.params()[model]["latent_dim"]
    rows = history(built, model)
    assert len(epochs) == len(rows)
    for epoch, row in zip(epochs, rows, strict=True):
        assert isinstance(epoch, EpochEnded)
        assert {"epoch": epoch.epoch, **epoch.means} == {
            key: float(value) for key, value in row.items()
        }
        assert {len(values) for key, values in epoch.steps.items() if "Train" in key} == {3}
        (image,) = epoch.images.values()
        assert image.startswith(b"\x89PNG")
    content = (folder / "artifacts" / f"{model}.safetensors").read_bytes()
    assert content == built.read(f"models/{model}.safetensors")
    assert getattr(saved, "sha256", None) == hashlib.sha256(content).hexdigest()
    assert isinstance(end, RunEnded)
    assert end.status == "FINISHED"


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
    with (record / "artifacts" / "vae.safetensors").open("ab") as file:
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
        pytest.param(
            with_start(format=2),
            "it has format 2, and this version reads up to 1; update this checkout.",
            id="newer format",
        ),
        pytest.param(with_start(id="../../etc"), "run.json: id: string should match", id="id"),
        pytest.param(with_start(stage="<b>x</b>"), "run.json: stage: string should", id="stage"),
        pytest.param(with_start(time="now"), "run.json: time: input should be", id="time"),
        pytest.param(
            with_start(tags={"mlflow.note.content": "<script>"}),
            "the tag 'mlflow.note.content' is not a record's to set",
            id="tag of MLflow's",
        ),
        pytest.param(
            with_first_line(images={"x": "../../../etc/passwd"}),
            "it names '../../../etc/passwd', which is none of its files.",
            id="image outside",
        ),
        pytest.param(
            with_first_line(images={"x": "/etc/passwd"}), "none of its files", id="absolute image"
        ),
        pytest.param(
            with_first_line(
                event="model", name="vae", file="../x", sha256="0" * 64, epoch=1, time=1
            ),
            "it names '../x', which is none of its files.",
            id="artifact outside",
        ),
        pytest.param(
            with_first_line(event="model", name="../x", file="run.json", sha256="0" * 64),
            "events.jsonl, line 1: model.name: string should match",
            id="artifact's name",
        ),
        pytest.param(with_broken_line, "events.jsonl, line 2: it: invalid json", id="broken line"),
        pytest.param(with_another_model, "is damaged: its SHA-256 is another.", id="other model"),
        pytest.param(with_a_picture_that_is_none, "is no PNG, or damaged.", id="no picture"),
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
    epochs = [EpochEnded(n, n, {"Train/x": [1.5]}, {"Train/x": 1.5}, {}) for n in (1, 2, 3)]
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


def test_codes_of_an_evaluation_come_back_and_damaged_ones_are_refused(
    built: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "record"
    shutil.copytree(built.path / "records" / "evaluation", folder)
    (evaluated,) = [event for event in read(folder) if isinstance(event, EvaluationEnded)]
    embedding = evaluated.embeddings["vae"]
    assert embedding.vectors.shape == (128, 8)
    assert embedding.thumbnails.shape == (128, 28, 28)
    assert sorted(set(embedding.labels.tolist())) == list(range(10))
    assert evaluated.configs["vae"]["latent_dim"] == 8
    assert [x for x, _ in evaluated.series["vae"]["Likelihood/KL by Unit"]] == list(range(1, 9))
    path = folder / "projections" / "vae.safetensors"
    path.unlink()
    path.write_bytes(b"no codes")
    with pytest.raises(RecordRefused, match=r"vae\.safetensors' holds no embedding, or is damaged"):
        read(folder)
    arrays: dict[str, npt.NDArray[Any]] = {
        "codes": embedding.vectors,
        "labels": embedding.labels[:-1],
        "images": embedding.thumbnails,
    }
    path.write_bytes(safetensors.numpy.save(arrays))
    with pytest.raises(RecordRefused, match="holds vectors, labels and images that do not fit"):
        read(folder)


@pytest.mark.parametrize("run_id", ["../../etc", "/etc", "..", "", "a/../../b"])
def test_no_id_leads_out_of_the_run_store(tmp_path: Path, run_id: str) -> None:
    assert run_dir(tmp_path, run_id).resolve().parent == tmp_path / ".runrecord" / "runs"


@pytest.mark.parametrize(
    ("field", "value"), [("stage", "Train"), ("params", {"a?": 1}), ("tags", {"git.commit": "-p"})]
)
def test_a_start_that_could_not_be_read_again_is_refused_before_the_work(
    tmp_path: Path, field: str, value: object
) -> None:
    start = dataclasses.replace(START, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="this run cannot be recorded: "):
        RecordWriter(tmp_path / "record").write(start)
    assert not (tmp_path / "record" / "run.json").exists()
