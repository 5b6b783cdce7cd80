"""MLflow and TensorBoard show whatever a record can hold: any title, any number, once."""

import hashlib
import math
import posixpath
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy
from mlflow_views import shown_as

from records import end_run, new_run, play
from runrecord import Embedding
from runrecord.record.events import Dataset, RunEnded
from runrecord.record.reader import Record, view
from runrecord.trackers.base import key_for, model_for, name_for, text_for
from runrecord.trackers.mlflow.audit import audit
from runrecord.trackers.mlflow.sink import MlflowSink
from runrecord.trackers.tensorboard import TensorBoardSink, event_folder

TITLES = [
    *(
        "Train/Loss",
        "손실/학습",
        "정확도 (%)",
        "🙂 ✓",
        "a%20b",
        "a//b",
        "..",
        "../x",
        "a/../b",
        ".",
    ),
    *("/leading", "trailing/", "/", "//", "a_x41_b", "_x41_", "_x_", "a_x_b", "__x41__", "a~b"),
    *("a:b", "a b", "'", '"', "<b>", "a\\b", "a+step+1+timestamp+2+x", "NaN", "x" * 250),
    *("é", "e\u0301", "A", "a", "ﬁ", "ß", "İ", "٣", "한" * 120, "a.txt/b"),
]
LONG = ["%" * 250, "%" * 249 + "&", "🙂" * 100, "한" * 250, "_x41_" * 50]

PARAMS: dict[str, Any] = {
    "nan": math.nan,
    "inf": -math.inf,
    "none": None,
    "list": [1, None, "둘", math.inf, {"a": []}],
    "empty": "",
    "no": False,
    "vae.latent/dim": 8,
    "long": "가" * 9000,
    "big": 10**40,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A repository whose MLflow store is there; every test has its own runs in it."""
    folder = tmp_path_factory.mktemp("sinks") / "한글 100%"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copyfile(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def record(request: pytest.FixtureRequest, tmp_path: Path) -> Record:
    """A run that logged under every title, its id the test's."""
    run_id = re.sub(r"\W", "-", request.node.name)
    params = PARAMS | {f"param {title}"[:250]: title for title in TITLES}
    tags = {f"tag {title}"[:250]: title for title in TITLES} | {"nul": "no\0NUL"}
    data = Dataset("data\0" * 200, "a" * 64, "/한" * 9000)
    run = new_run(tmp_path / "record", id=run_id, params=params, tags=tags, dataset=data)
    run.log({title: number for number, title in enumerate(TITLES + LONG)}, step=1)
    run.log({"Train/Loss": math.nan, "손실/학습": math.inf, "..": -math.inf, "//": -0.0}, step=2)
    run.log({"/": 2.0}, step=2, within={"/": [4.0, math.nan, 2.0]})
    run.log({"/": 2.0}, step=2**53 - 1, within={"/": [2.0] * 1025})
    for title in TITLES + LONG:
        run.image(title, np.full((2, 3, 3), 7, np.uint8), step=1)
        run.text(title, f"{title}\n")
    run.tag(**{"later 🙂": "말"})
    return end_run(tmp_path / "record")


def pictures_of(client: Any, run: Any) -> list[str]:
    """The names of a run's pictures."""
    files = [Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images")]
    return [name for name in files if name.endswith(".png")]


def test_mlflow_shows_every_title_and_number_once_as_it_is(root: Path, record: Record) -> None:
    """Played from its start, from the middle, and again."""
    for events in (1, 4, 30, None, None):
        play(root, record, MlflowSink, events=events)
    client, run = shown_as(root, record.start.id)
    assert run.info.status == "FINISHED"
    params = run.data.params
    for name, text in {
        "nan": "nan",
        "inf": "-inf",
        "none": "null",
        "list": '[1, null, "둘", Infinity, {"a": []}]',
        "vae.latent/dim": "8",
        "big": "1" + 40 * "0",
        **{f"param {title}": title for title in TITLES if len(title) < 200},
    }.items():
        assert params[name_for(name)] == text
    assert params["long"].startswith("가" * 5900)
    assert hashlib.sha256(("가" * 9000).encode()).hexdigest() in params["long"]
    assert run.data.tags["later _x1f642_"] == "말"
    assert run.data.tags["nul"] == "no\ufffdNUL", "which PostgreSQL refuses"
    for number, title in enumerate(TITLES + LONG):
        points = client.get_metric_history(run.info.run_id, name_for(title))
        assert [point.value for point in points if point.step == 1] == [number], title
    last = run.data.metrics
    assert math.isnan(last["Train/Loss"])
    assert last[name_for("손실/학습")] == sys.float_info.max, "MLflow has no infinity"
    assert last[name_for("..")] == -sys.float_info.max
    pictures = [name.partition("+step+1+")[0] for name in pictures_of(client, run)]
    assert sorted(pictures) == sorted(key_for(one).replace("/", "~") for one in TITLES + LONG)
    texts = {file.path for file in client.list_artifacts(run.info.run_id, "texts")}
    assert f"texts/{key_for('정확도 (%)')}.txt" in texts
    (read,) = run.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("data\ufffd" * 100, "a" * 36)
    assert audit(client, run.info.run_id, record) == []


def test_tensorboard_shows_every_title_as_it_is(root: Path, record: Record) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        play(root, record, TensorBoardSink)
    everything = dict.fromkeys(("scalars", "images", "tensors"), 0)
    folder = event_folder(root) / record.start.stage / record.start.id
    found: Any = EventAccumulator(str(folder), everything).Reload()
    assert set(found.Tags()["scalars"]) == {*TITLES, *LONG}
    assert set(found.Tags()["images"]) == {*TITLES, *LONG}
    for number, title in enumerate(TITLES + LONG):
        first = found.Scalars(title)[0]
        assert (first.step, first.value) == (1, number)
    assert math.isnan(found.Scalars("Train/Loss")[1].value)
    assert found.Scalars("손실/학습")[1].value == math.inf
    assert [(one.step, str(one.value)) for one in found.Scalars("/")][1:] == [
        *((3, "4.0"), (4, "nan"), (5, "2.0")),
        *[(2**63 - 1, "2.0")] * 1025,
    ]


def test_both_say_what_the_project_has_to_say(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard beside a curve, MLflow in a run's description, which a person may rewrite."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "pyproject.toml").write_text("[tool.runrecord]\nproject = 'described:PROJECT'\n")
    (tmp_path / "described.py").write_text(
        "from runrecord.project import Project\n"
        "PROJECT = Project(params=('lr', 'none'), headline=('Size',),\n"
        "                  descriptions={'Train/Loss': 'Nats an image.'})\n"
    )
    run = new_run(tmp_path / "train", params={"lr": 0.1, "z": 2})
    for epoch in (1, 2):
        run.log({"Train/Loss": 1 / epoch}, epoch, {"Train/Loss": [2.0, 1.0]})
    run.model(tmp_path / "described.py")
    record = end_run(tmp_path / "train")
    play(tmp_path, record, TensorBoardSink, MlflowSink)
    folder = event_folder(tmp_path) / record.start.stage / record.start.id
    found: Any = EventAccumulator(str(folder)).Reload()
    assert found.SummaryMetadata("Train/Loss").summary_description == "Nats an image."
    assert [one.value for one in found.Scalars("Train/Loss")] == [2, 1, 2, 1]
    client, seen = shown_as(tmp_path, record.start.id)
    note = "mlflow.note.content"
    assert seen.data.tags[note] == "lr 0.1\n\nTo rebuild and compare it: `runrecord verify run-1`"
    client.set_tag(seen.info.run_id, note, "mine")
    run = new_run(tmp_path / "evaluate", id="evaluate", stage="evaluate")
    run.evaluation("described", tmp_path / "described.py", {"Size": 4.0, "Other": 1.0})
    play(tmp_path, end_run(tmp_path / "evaluate"), MlflowSink)
    play(tmp_path, record, MlflowSink)
    _, seen = shown_as(tmp_path, record.start.id)
    assert seen.data.tags[note] == "mine"
    assert seen.data.metrics["Eval/Size"] == 4.0
    assert "Eval/Other" not in seen.data.metrics


def test_an_evaluation_is_at_its_model_whatever_that_is_called(root: Path, tmp_path: Path) -> None:
    title, curve = "변이형 VAE/β=0.5 🙂: 'x'.%", "KL/단위"
    weights = tmp_path / "weights 100%.bin"
    weights.write_bytes(b"weights")
    config = {"z": 8, "layers": [1, 2], "act": None, "nested": {"a": 1}, "β": 0.5, "no": False}
    config["entropy"] = 2**127  # as NumPy's generators are seeded
    vectors = Embedding(
        np.ones((5, 3), np.float32), np.arange(5, dtype=np.uint8), np.zeros((5, 2, 2), np.uint8)
    )
    run = new_run(tmp_path / "train", id="odd-training")
    run.model(weights, title, step=3)
    training = end_run(tmp_path / "train")
    run = new_run(tmp_path / "evaluate", id="odd-evaluation", stage="evaluate")
    run.evaluation(
        title,
        weights,
        {"정확도 %": 0.5, "NaN": math.nan},
        series={curve: [(1, 0.5), (3, 0.25)]},
        config=config,
        embedding=vectors,
    )
    evaluation = end_run(tmp_path / "evaluate")
    for _ in range(2):
        play(root, evaluation, MlflowSink, TensorBoardSink)
        play(root, training, MlflowSink, TensorBoardSink)
    client, trained = shown_as(root, training.start.id)
    _, evaluated = shown_as(root, evaluation.start.id)
    assert trained.data.tags["evaluation.run_id"] == evaluated.info.run_id
    assert trained.data.metrics[f"Eval/{name_for('정확도 %')}"] == 0.5
    points = client.get_metric_history(evaluated.info.run_id, name_for(f"{title}/{curve}"))
    assert sorted((point.step, point.value) for point in points) == [(1, 0.5), (3, 0.25)]
    assert f"Eval/{name_for(curve)}" not in trained.data.metrics
    (output,) = trained.outputs.model_outputs
    assert output.step == 3
    assert client.get_logged_model(output.model_id).status == "READY"
    for shown_run, record in ((trained, training), (evaluated, evaluation)):
        found = audit(client, shown_run.info.run_id, record)
        assert found == [], record.start.id
    shown_at = event_folder(root) / evaluation.start.stage / "odd-evaluation"
    (folder,) = [path for path in shown_at.iterdir() if path.is_dir()]
    assert (folder / "projector_config.pbtxt").exists()


@contextmanager
def told_of_statements(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell of each statement, before the database gets it."""

    def hear(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        tell(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", hear)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", hear)


def test_a_run_costs_the_same_however_many_made_or_evaluated_its_model(
    root: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights that many runs make")

    def play_pair(number: int) -> tuple[int, int]:
        """How many statements a training and an evaluation of that model cost."""
        statements: list[str] = []
        names = f"train-{number}", f"evaluate-{number}"
        run = new_run(tmp_path / names[0], id=names[0], time=2 * number + 1)
        run.image("place", np.full((4, 4), number, np.uint8), step=1)
        run.model(weights, "twin", step=1)
        run = new_run(tmp_path / names[1], id=names[1], stage="evaluate", time=2 * number + 2)
        run.evaluation("twin", weights, {"Size": float(number)}, {"Curve": [(1, 0.5), (2, 0.25)]})
        with told_of_statements(statements.append):
            play(root, end_run(tmp_path / names[0]), MlflowSink)
            training = len(statements)
            play(root, end_run(tmp_path / names[1]), MlflowSink)
        return training, len(statements)

    costs = [play_pair(number) for number in range(5)]
    assert costs[2] == costs[4]
    ids = {}
    for number in range(5):
        _, run = shown_as(root, f"train-{number}")
        ids[number] = run.info.run_id
        assert run.data.metrics["Eval/Size"] == number, "the newest when it was linked"
    _, last = shown_as(root, "evaluate-4")
    assert last.data.tags["twin.run_id"] == ids[4]


def test_cut_off_anywhere_a_run_is_completed(root: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights of a run that is cut off")
    run = new_run(tmp_path / "train", id="cut-train")
    run.model(weights, "cut", step=2)
    training = end_run(tmp_path / "train")
    run = new_run(tmp_path / "evaluate", id="cut-evaluate", stage="evaluate", time=2)
    run.image("cut_samples", np.full((4, 4), 9, np.uint8))
    run.text("words", "all of them")
    run.evaluation("cut", weights, {"Size": math.nan}, {"Curve": [(1, 0.5), (2, 0.25)]})
    evaluation = end_run(tmp_path / "evaluate")
    play(root, training, MlflowSink)

    calls, allowed = 0, 0

    def cut(statement: str) -> None:
        nonlocal calls
        calls += statement.startswith(("INSERT", "UPDATE"))
        if calls > allowed:
            raise KeyboardInterrupt

    whole = False
    while not whole:
        calls, allowed = 0, allowed + 1
        with suppress(KeyboardInterrupt), told_of_statements(cut):
            play(root, evaluation, MlflowSink)
            whole = True
    assert allowed > 2, "it was cut off"
    client, evaluated = shown_as(root, evaluation.start.id)
    _, trained = shown_as(root, training.start.id)
    assert evaluated.info.status == "FINISHED"
    assert audit(client, evaluated.info.run_id, evaluation) == []
    assert trained.data.tags["evaluation.run_id"] == evaluated.info.run_id
    shown_points = {"cut/Size": 1, "cut/Curve": 2}
    for name, count in shown_points.items():
        assert len(client.get_metric_history(evaluated.info.run_id, name)) == count
    assert len(client.get_metric_history(trained.info.run_id, "Eval/Size")) == 1
    assert len(pictures_of(client, evaluated)) == 1
    assert len(client.get_run(evaluated.info.run_id).inputs.model_inputs) == 1


def test_how_it_ended_is_shown(root: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "failed", id="failed")
    run.log({"a": 1.0})
    changed = ("src/a.py", "lr (was 1, is 2)")
    message = "ValueError: \0" + "가" * 6000
    record = end_run(
        tmp_path / "failed", status="FAILED", message=message, traceback="in fit", changed=changed
    )
    play(root, record, MlflowSink, TensorBoardSink)
    client, seen = shown_as(root, record.start.id)
    assert seen.info.status == "FAILED"
    assert (seen.info.start_time, seen.info.end_time) == (1, 9000)
    assert seen.data.tags["error"] == message[:5000].replace("\0", "\ufffd")
    assert seen.data.tags["deps.changed"] == "src/a.py, lr (was 1, is 2)"
    path = client.download_artifacts(seen.info.run_id, "traceback.txt", str(tmp_path))
    assert Path(path).read_text() == "in fit"
    assert isinstance(record.end, RunEnded)
    assert view(record).status == "FAILED"


def odd_titles() -> Iterator[str]:
    """What names could be confused by, put together in all ways, the same each time."""
    pieces = ["_", "x", "_x41_", "_x_", "/", ".", "..", "%", "A", "41", "한", "🙂", " ", "~", "-"]
    generator = random.Random(0)
    for number in range(5000):
        longest = 12 if number % 16 else 120
        yield "".join(generator.choices(pieces, k=generator.randint(1, longest)))[:250]


@pytest.mark.parametrize("mapped", [name_for, key_for, model_for])
def test_names_are_one_to_one_and_what_mlflow_takes(mapped: Any) -> None:
    titles = {*TITLES, *LONG, *odd_titles()}
    names = {title: mapped(title) for title in titles}
    assert len(set(names.values())) == len(titles), "no two titles have one name"
    taken = {
        name_for: r"[\w.\- :/]+",
        key_for: r"[A-Za-z0-9_.\- /]+",
        model_for: r"[A-Za-z0-9_\- ]+",
    }
    for title, name in names.items():
        assert re.fullmatch(taken[mapped], name), title
        assert 0 < len(name) <= (250 if mapped is name_for else 150), (
            "a file's name has room for it"
        )
        assert posixpath.normpath(name) == name, "MLflow refuses a name that is no plain path"
        assert not name.startswith("/")
        assert ".." not in name.split("/")
    assert mapped("Total Loss_x-2") == "Total Loss_x-2", "what MLflow takes stays as it is"
    assert mapped("") != ""


def test_values_are_text_that_mlflow_takes_and_differ_where_they_do() -> None:
    values: list[object] = ["1 ", None, [], [1], ["1"], {}, {"a": None}, "가" * 6000, "가" * 6001]
    texts = [text_for(value) for value in values]
    assert len(set(texts)) == len(values)
    assert all(len(text) <= 6000 for text in texts)
    assert text_for("no\0NUL") == "no\ufffdNUL", "which PostgreSQL refuses"
