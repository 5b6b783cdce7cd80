"""What the machine did during a run: on record and in MLflow, and never compared."""

import math
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow_views import shown_as

import runrecord.run.machine
from records import end_run, new_run, play, recorded
from runrecord import start_run
from runrecord.record.events import Observed
from runrecord.record.reader import Record, view
from runrecord.run.machine import sampled
from runrecord.trackers.mlflow.audit import audit
from runrecord.trackers.mlflow.sink import MlflowSink
from runrecord.trackers.tensorboard import TensorBoardSink
from runrecord.verify.compare import compare

EVERYWHERE = {
    "cpu_utilization_percentage",
    "system_memory_usage_megabytes",
    "system_memory_usage_percentage",
    "process_memory_usage_megabytes",
}


def observed(record: Record) -> list[Observed]:
    return [event for event in record.events() if isinstance(event, Observed)]


def test_a_run_has_its_machines_load_and_is_equal_to_another(here: Path) -> None:
    for _ in range(2):
        with start_run("train") as run:
            run.log({"loss": 1.0})
    first, second = recorded(here)
    for record in (first, second):
        load = observed(record)[-1].values
        assert load.keys() >= EVERYWHERE
        assert 0 <= load["cpu_utilization_percentage"] <= 100
        own = load["process_memory_usage_megabytes"]
        assert 10 < own < min(10_000, load["system_memory_usage_megabytes"])
    assert observed(first) != observed(second)
    assert compare(first, second, 0).verdict == "bit-identical"


def test_it_is_sampled_while_the_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runrecord.run.machine, "_INTERVAL", 0.05)
    samples: list[Mapping[str, float]] = []
    with suppress(KeyboardInterrupt), sampled(samples.append):
        while len(samples) < 5:  # busily: the load is to be seen
            sum(range(10_000))
        raise KeyboardInterrupt
    assert max(values["cpu_utilization_percentage"] for values in samples) > 0
    assert "machine" not in {thread.name for thread in threading.enumerate()}


def test_a_sample_that_cannot_be_had_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runrecord.run.machine, "_cpu_and_memory", {}.pop)
    samples: list[object] = []
    with sampled(samples.append):
        pass
    assert samples == []


def test_mlflow_shows_it_among_its_system_metrics(tmp_path: Path, empty_store: Path) -> None:
    root = tmp_path / "repository"
    (root / ".dvc").mkdir(parents=True)
    shutil.copyfile(empty_store, root / "mlflow.db")
    run = new_run(tmp_path / "record", id="observed")
    run.log({"Loss": 1.0, "system": 2.0}, step=1)
    run.observe({"images_per_second": 1000, "gpu_0_utilization_percentage": math.nan})
    record = end_run(tmp_path / "record")
    play(root, record, MlflowSink, TensorBoardSink)
    client, shown = shown_as(root, "observed")
    assert shown.data.metrics["system/images_per_second"] == 1000
    assert math.isnan(shown.data.metrics["system/gpu_0_utilization_percentage"])
    (point,) = client.get_metric_history(shown.info.run_id, "system/images_per_second")
    (load,) = observed(record)
    assert point.timestamp == load.time
    assert point.step == (load.time - record.start.time) // 1000
    assert audit(client, shown.info.run_id, record) == []


def test_what_threads_log_is_on_record_whole(tmp_path: Path) -> None:
    run = new_run(tmp_path / "record")

    def work(name: str) -> None:
        for number in range(50):
            run.observe({name: number})
            run.log({name: number}, step=number)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = view(end_run(tmp_path / "record"))
    assert seen.observed == {name: [*range(50)] for name in "abc"}
    assert {name: [*series] for name, series in seen.series.items()} == seen.observed
