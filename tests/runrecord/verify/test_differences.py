"""Two runs are one list of differences: whatever is changed in one is in it, by name."""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workspaces import IDENTICAL, RECORD_ONLY, new_project, spool, verify

from runrecord.record.events import (
    Event,
    File,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Observed,
    Resumed,
    RunEnded,
)
from runrecord.verify.compare import Difference, differences, results_in

TITLES = st.sampled_from(["loss", "Test/Loss", "samples", "layer.1", "손실"])
STEPS = st.integers(0, 3)
NUMBERS = st.floats(width=64) | st.sampled_from([0.0, -0.0, math.inf, math.nan])
FILES = st.integers(0, 3).map(lambda n: File(f"files/{n}", f"{n:064x}"))
LOGGED = st.builds(
    Logged,
    time=st.just(1),
    step=STEPS,
    metrics=st.dictionaries(TITLES, NUMBERS, max_size=2),
    steps=st.dictionaries(TITLES, st.lists(NUMBERS, min_size=1, max_size=3), max_size=2),
    images=st.dictionaries(TITLES, FILES, max_size=2),
    texts=st.dictionaries(TITLES, FILES, max_size=1),
    artifacts=st.dictionaries(TITLES, FILES, max_size=1),
).filter(lambda one: one.metrics or one.steps or one.images or one.texts or one.artifacts)
SAVED = st.builds(
    ModelSaved,
    time=st.just(1),
    name=TITLES,
    file=FILES,
    filename=st.sampled_from(["a.bin", "b.bin"]),
    step=STEPS,
)
EVALUATED = st.builds(
    ModelEvaluated,
    time=st.just(1),
    model=TITLES,
    sha256=FILES.map(lambda file: file.sha256),
    metrics=st.dictionaries(TITLES, NUMBERS, min_size=1, max_size=2),
    series=st.dictionaries(
        TITLES, st.lists(st.tuples(st.integers(1, 3), NUMBERS), min_size=1, max_size=2), max_size=1
    ),
    config=st.dictionaries(TITLES, st.none() | NUMBERS | TITLES, max_size=1),
    embedding=st.none() | FILES,
)
ENDED = st.builds(
    RunEnded,
    time=st.just(9),
    status=st.just("FINISHED"),
    outs=st.dictionaries(TITLES, FILES.map(lambda file: file.sha256), max_size=2),
)
STREAMS = st.tuples(st.lists(LOGGED | SAVED | EVALUATED, max_size=6), ENDED).map(
    lambda parts: [*parts[0], parts[1]]
)


def found(first: list[Any], second: list[Any]) -> list[Difference]:
    return list(differences(results_in(first), results_in(second)))


@given(STREAMS)
@settings(max_examples=100, deadline=None)
def test_any_stream_of_events_equals_itself(stream: list[Event]) -> None:
    again = [dataclasses.replace(event, time=event.time + 1) for event in stream]
    assert found(stream, again) == []


Change = Callable[[Any], Any]


def changes(event: Any) -> list[tuple[str, Any]]:
    """An event with one thing changed, for each thing in it; what that is called first."""
    made: list[tuple[str, Any]] = []

    def add(title: str, **fields: Any) -> None:
        made.append((title, dataclasses.replace(event, **fields)))

    def of_mapping(name: str, change: Change, called: Callable[[str], str] = str) -> None:
        values = getattr(event, name)
        for title, value in values.items():
            rest = {key: one for key, one in values.items() if key != title}
            add(called(title), **{name: {**values, title: change(value)}})
            add(called(title), **{name: rest})
            add(called(title), **{name: {**rest, f"{title}, renamed": value}})

    match event:
        case Logged():
            of_mapping("metrics", last_bit)
            of_mapping("steps", lambda values: [*values[:-1], last_bit(values[-1])])
            of_mapping("steps", lambda values: [*values, 1.0])
            for kind in ("images", "texts", "artifacts"):
                of_mapping(kind, other_file)
            titles = [*event.metrics, *event.steps, *event.images, *event.texts, *event.artifacts]
            add(titles[0], step=event.step + 1)
        case ModelSaved():
            add(event.name, file=other_file(event.file))
            add(event.name, step=event.step + 1)
            add(event.name, name=f"{event.name}, renamed")
            add(event.name, filename="c.bin")
        case ModelEvaluated():
            model = event.model.replace("/", "~1")
            of_mapping("metrics", last_bit, lambda title: f"{model}/{title}")
            of_mapping(
                "series",
                lambda points: [*points[:-1], (points[-1][0], last_bit(points[-1][1]))],
                lambda title: f"{model}/{title}",
            )
            of_mapping("series", lambda _: [], lambda title: f"{model}/{title}")
            for title, value in event.metrics.items():
                rest = {key: one for key, one in event.metrics.items() if key != title}
                curve = {**event.series, title: [(0, value)]}
                add(f"{model}/{title}", metrics=rest, series=curve)
            of_mapping(
                "config",
                lambda value: "other" if value != "other" else None,
                lambda title: f"{model}/{title}",
            )
            add(model, sha256="f" * 64)
            add(model, embedding=other_file(event.embedding))
            add(model, model=f"{event.model}, renamed")
        case RunEnded():
            of_mapping("outs", lambda _: "f" * 64)
            add("extra.txt", outs={**event.outs, "extra.txt": "f" * 64})
            add("of the run", status="FAILED")
    return made


def last_bit(number: float) -> float:
    return math.nextafter(number, -math.inf) if math.isfinite(number) else 1.0


def other_file(_: File | None) -> File:
    return File("files/other", "f" * 64)


@given(STREAMS)
@settings(max_examples=100, deadline=None)
def test_any_one_thing_that_is_changed_is_found_and_named(stream: list[Any]) -> None:
    for number, event in enumerate(stream):
        for title, changed in changes(event):
            other = [*stream[:number], changed, *stream[number + 1 :]]
            listed = found(stream, other)
            titles = {re.sub(r" \(evaluation \d+\)", "", one.place.title) for one in listed}
            assert title in titles, (event, changed)


def evaluated(model: str, **metrics: float) -> ModelEvaluated:
    return ModelEvaluated(1, model, "a" * 64, metrics)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            [Logged(1, 1, {"a": 1.0}, {"a": [1.0]}), Logged(1, 1, {"a": 1.0}, {"a": [2.0, 3.0]})],
            [Logged(1, 1, {"a": 1.0}, {"a": [1.0, 2.0]}), Logged(1, 1, {"a": 1.0}, {"a": [3.0]})],
        ),
        (
            [evaluated("m", x=1.0), evaluated("m", y=2.0)],
            [evaluated("m", x=1.0, y=2.0), evaluated("m")],
        ),
        (
            [ModelEvaluated(1, "a", "a" * 64, {"b/c": 1.0}), evaluated("a/b")],
            [evaluated("a"), evaluated("a/b", c=1.0)],
        ),
        (
            [evaluated("m"), evaluated("m", x=1.0), evaluated("m (evaluation 2)", y=2.0)],
            [evaluated("m"), evaluated("m", y=2.0), evaluated("m (evaluation 2)", x=1.0)],
        ),
        (
            [Logged(1, 1, artifacts={"a": File("artifacts/a.csv", "a" * 64)})],
            [Logged(1, 1, artifacts={"a": File("artifacts/a.txt", "a" * 64)})],
        ),
        (
            [ModelEvaluated(1, "m", "a" * 64, {}, config={"z": 1})],
            [ModelEvaluated(1, "m", "a" * 64, {}, config={"z": 1.0})],
        ),
    ],
    ids=["split of a step", "evaluation", "slash", "like a number", "suffix", "kind of number"],
)
def test_which_event_a_value_is_of_counts(first: list[Any], second: list[Any]) -> None:
    assert found(first, second) != []


def test_an_end_that_a_run_was_resumed_after_is_none() -> None:
    logged = Logged(1, 1, {"loss": 1.0})
    stopped = [logged, RunEnded(2, "KILLED"), Resumed(3, 1), RunEnded(4, "FINISHED")]
    assert found(stopped, [logged, RunEnded(4, "FINISHED")]) == []
    assert found(stopped, [logged, RunEnded(2, "KILLED"), RunEnded(4, "FINISHED")]) != []


def test_what_the_machine_did_and_where_a_run_was_resumed_are_no_results() -> None:
    assert (
        results_in([Observed(1, {"cpu": 1.0}), Resumed(1, 3), Logged(1, 1, tags={"a": "b"})]) == {}
    )


SCRIPT = """
import os
import numpy as np
import runrecord

vary = "VARY" in os.environ

with runrecord.start_run() as run:
    for epoch in run.epochs(3):
        loss = 1.0 / epoch
        run.log({"loss": loss}, within={"loss": [loss, 0.5]})
        if vary and epoch == 2:
            run.log({"loss": loss})
        run.image("place", np.full((2, 2), 1, np.uint8))
        run.text("notes", "a")
    for folder in ("a", "b"):
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/model.bin", "w") as file:
            file.write(folder)
        run.model(f"{folder}/model.bin", name=folder)
    with open("notes.csv", "w") as file:
        file.write("1")
    run.artifact("notes.csv")
    vectors = np.zeros((2, 2), np.float32)
    run.evaluation(
        "a",
        "a/model.bin",
        {"accuracy": 0.5},
        series={"curve": [(1, 0.5)]},
        config={"z": 1},
        embedding=runrecord.Embedding(vectors, None, np.zeros((2, 2, 2), np.uint8)),
    )
    with open("out.txt", "w") as file:
        file.write("10000" if vary else "2")
    os.makedirs("folder", exist_ok=True)
    open("folder/one", "w").close()
    if vary:
        open("folder/two", "w").close()
"""
PROJECT = {
    ".gitignore": "/out.txt\n/folder\n/records\n/a\n/b\n/notes.csv\n",
    "all.py": SCRIPT,
    "dvc.yaml": "stages: {all: {cmd: python all.py, deps: [all.py], "
    "outs: [out.txt, folder, records/all]}}\n",
}


def test_a_rerun_that_logs_and_writes_everything_is_equal_or_what_differs_is_named(
    tmp_path: Path,
) -> None:
    project = new_project(tmp_path / "repository", PROJECT)
    project.run("dvc", "repro", environment=RECORD_ONLY)
    (run,) = spool(project)
    assert IDENTICAL in verify(project, run.name)
    output = verify(project, run.name, status=1, VARY="1")
    assert "Verdict: different: 3 results differ, first loss at step 2" in output
    assert "the out out.txt" in output
    assert "the out folder" in output
