"""The TensorBoard sink: one folder of event files a run."""

import importlib
import io
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from runrecord.errors import require
from runrecord.project import load_project
from runrecord.record.events import (
    Contents,
    Event,
    Logged,
    ModelEvaluated,
    RunEnded,
    RunStarted,
)
from runrecord.record.recordable import Embedding, unpack
from runrecord.safety.text import plain
from runrecord.trackers.base import Sink, content_of, flat, is_nested, text_for

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.summary_pb2 import Summary

_LAST = 2**63 - 1  # of the steps that an event file can say
_EVALUATION = "eval/"
"""Before the names of test metrics: in lower case they come after the losses, which open first."""


def import_tensorboardx() -> None:
    """Import it without PyTorch, which it would load for three seconds and needs for nothing here.

    Where PyTorch is loaded already, it stays.
    """
    own = sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    try:
        importlib.import_module("tensorboardX.event_file_writer")
        importlib.import_module("tensorboardX.summary")
    finally:
        if own is None:
            del sys.modules["torch"]


def event_folder(root: Path) -> Path:
    """Where runs of the main repository at `root` leave their event files.

    A folder a run, in one of their stage: TensorBoard sorts runs by that.
    """
    return root / "tensorboard"


def shown_at(root: Path, start: RunStarted) -> Path:
    """The folder of a run's event files."""
    return event_folder(root) / flat(start.stage) / start.id


class TensorBoardSink(Sink):
    """Writes every step's losses, every epoch's pictures, and what an evaluation found.

    Through tensorboardX's `EventsWriter`: its `SummaryWriter` puts underscores into names, and both
    that and `FileWriter` pass each event through a queue between processes.
    """

    name = "TensorBoard"
    package = "tensorboardX"
    remedy = "'runrecord sync --tensorboard' completes TensorBoard later"
    _writer: "EventsWriter"

    def __init__(self, root: Path) -> None:
        require("tensorboardX", self.name, "tensorboard")
        import_tensorboardx()
        self._root, self._descriptions = root, load_project(root).descriptions

    def handle(self, event: Event, contents: Contents) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.summary import text

        seconds = event.time / 1000
        match event:
            case RunStarted():
                self._run_folder = shown_at(self._root, event)
                if self._run_folder.exists():  # played again: event files only grow, so begin anew
                    shutil.rmtree(self._run_folder)
                self._run_folder.mkdir(parents=True)
                self._undescribed = {**self._descriptions}
                self._writer = EventsWriter(str(self._run_folder / "events"))
                rows = {**event.params, **event.tags}
                rows |= {"data set": event.dataset.digest} if event.dataset else {}
                table = "".join(
                    f"\n| {plain(key)} | {plain(value)} |" for key, value in rows.items()
                )
                _write(self._writer, text("Run", f"| key | value |\n|---|---|{table}"), 0, seconds)
            case Logged():
                self._log(event, contents, seconds)
            case ModelEvaluated():
                folder = self._run_folder / flat(event.model)
                folder.mkdir(exist_ok=True)
                _write_model(folder, event, seconds)
                if event.embedding:
                    embedding = unpack(content_of(event.embedding, contents))
                    _write_embedding(folder, f"Embedding of {event.model}", embedding)
            case RunEnded():
                _write(self._writer, text("Status", event.status), 0, seconds)

    def flush(self) -> None:
        self._writer.flush()

    def _log(self, event: Logged, contents: Contents, seconds: float) -> None:
        from tensorboardX.summary import text

        for name, values in event.steps.items():
            first = max(event.step - 1, 0) * len(values)
            for number, value in enumerate(values, start=first):
                self._add_scalars({name: value}, min(number, _LAST), seconds)
        whole = {name: value for name, value in event.metrics.items() if name not in event.steps}
        self._add_scalars(whole, event.step, seconds)
        for title, file in event.images.items():
            _write(self._writer, _image(title, content_of(file, contents)), event.step, seconds)
        for title, file in event.texts.items():
            shown = content_of(file, contents).decode(errors="replace")
            _write(self._writer, text(title, f"```\n{shown}\n```"), event.step, seconds)

    def _add_scalars(self, values: Mapping[str, float], step: int, seconds: float) -> None:
        """Write values; the first of each name with what the project says of it."""
        summary = _scalars(values)
        for value in summary.value:
            if value.tag in self._undescribed:
                value.metadata.summary_description = self._undescribed.pop(value.tag)
                value.metadata.plugin_data.plugin_name = "scalars"
        _write(self._writer, summary, step, seconds)

    def close(self) -> None:
        self._writer.close()


def _write(writer: "EventsWriter", summary: "Summary", step: int, seconds: float) -> None:
    from tensorboardX.proto.event_pb2 import Event as FileEvent

    writer.write_event(FileEvent(wall_time=seconds, step=step, summary=summary))


def _write_model(folder: Path, event: ModelEvaluated, seconds: float) -> None:
    """What an evaluation says of one model, as a run of its own: a row of the HParams tab."""
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.summary import hparams

    metrics = {_EVALUATION + name: value for name, value in event.metrics.items()}
    config = {key: text_for(one) if is_nested(one) else one for key, one in event.config.items()}
    writer = EventsWriter(str(folder / "events"))
    for summary in hparams({"model": event.model, **config}, metrics):
        _write(writer, summary, 0, seconds)
    _write(writer, _scalars(metrics), 0, seconds)
    for name, points in event.series.items():
        for x, y in points:
            _write(writer, _scalars({_EVALUATION + name: y}), x, seconds)
    writer.close()


def _write_embedding(folder: Path, title: str, found: Embedding) -> None:
    """The files of TensorBoard's Projector tab: vectors, labels and thumbnails."""
    from tensorboard.plugins.projector import ProjectorConfig, visualize_embeddings

    np.savetxt(folder / "vectors.tsv", found.vectors, fmt="%.6g", delimiter="\t")
    count, height, width, *colours = found.thumbnails.shape
    side = math.ceil(math.sqrt(count))  # it takes square pictures, filled row by row
    padded = np.zeros((side * side, height, width, *colours), np.uint8)
    padded[:count] = found.thumbnails
    rows = padded.reshape(side, side, height, width, *colours).swapaxes(1, 2)
    picture = rows.reshape(side * height, side * width, *colours)
    Image.fromarray(picture).save(folder / "thumbnails.png")
    config = ProjectorConfig()
    embedding = config.embeddings.add(tensor_name=title, tensor_path="vectors.tsv")
    if found.labels is not None:
        np.savetxt(folder / "labels.tsv", found.labels, fmt="%d")
        embedding.metadata_path = "labels.tsv"
    embedding.sprite.image_path = "thumbnails.png"
    embedding.sprite.single_image_dim.extend([width, height])
    visualize_embeddings(str(folder), config)


def _scalars(values: Mapping[str, float]) -> "Summary":
    from tensorboardX.proto.summary_pb2 import Summary

    return Summary(
        value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    )


def _image(title: str, content: bytes) -> "Summary":
    from tensorboardX.proto.summary_pb2 import Summary

    width, height = Image.open(io.BytesIO(content), formats=["PNG"]).size
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    return Summary(value=[Summary.Value(tag=title, image=image)])
