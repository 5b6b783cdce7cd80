"""The TensorBoard sink: one folder of event files a run."""

import io
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from generative.tracking.events import (
    EpochEnded,
    Event,
    ModelSaved,
    ModelsEvaluated,
    Png,
    Resumed,
    RunEnded,
    RunStarted,
)
from generative.tracking.tracker import Sink

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.summary_pb2 import Summary


def event_folder(root: Path) -> Path:
    """Where runs of the main repository at `root` leave their event files, a folder a run."""
    return root / "tensorboard"


class TensorBoardSink(Sink):
    """Writes every step's losses and every epoch's pictures.

    Through tensorboardX's `EventsWriter`: its `SummaryWriter` puts underscores into names, and both
    that and `FileWriter` pass each event through a queue between processes.
    """

    name = "TensorBoard"
    remedy = "'generative sync --tensorboard' completes TensorBoard later"

    def __init__(self, root: Path) -> None:
        self._folder = event_folder(root)
        self._writer: EventsWriter | None = None

    def handle(self, event: Event) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.summary import text

        if isinstance(event, RunStarted):
            folder = self._folder / event.id
            if folder.exists():  # played again: event files only grow, so begin anew
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            self._writer = EventsWriter(str(folder / "events"))
        assert self._writer is not None, "a run's first event is RunStarted"
        seconds = event.time / 1000
        match event:
            case RunStarted():
                rows = {**event.params, **event.tags, "data set": event.dataset.digest}
                table = "".join(f"\n| {key} | {_plain(value)} |" for key, value in rows.items())
                summary = text("Run", f"| key | value |\n|---|---|{table}")
                self._add(summary, 0, seconds)
            case EpochEnded():
                for split in ("Train", "Test"):
                    columns = {k: v for k, v in event.steps.items() if k.startswith(f"{split}/")}
                    steps = zip(*columns.values(), strict=True)
                    count = len(next(iter(columns.values())))
                    for number, values in enumerate(steps, start=(event.epoch - 1) * count):
                        row = _scalars(dict(zip(columns, values, strict=True)))
                        self._add(row, number, seconds)
                self._add(_images(event.images), event.epoch, seconds)
            case ModelsEvaluated():
                for model, figures in event.figures.items():
                    row = _scalars({f"{model}/{name}": value for name, value in figures.items()})
                    self._add(row, 0, seconds)
                self._add(_images(event.images), 0, seconds)
            case RunEnded():
                self._add(text("Status", event.status), 0, seconds)
            case ModelSaved() | Resumed():
                pass
        self._writer.flush()

    def _add(self, summary: "Summary", step: int, seconds: float) -> None:
        from tensorboardX.proto.event_pb2 import Event as FileEvent

        assert self._writer is not None
        self._writer.write_event(FileEvent(wall_time=seconds, step=step, summary=summary))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _plain(value: object) -> str:
    """A value as text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~-])", r"\\\1", str(value)).replace("\n", " ")


def _scalars(values: Mapping[str, float]) -> "Summary":
    from tensorboardX.proto.summary_pb2 import Summary

    return Summary(
        value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    )


def _images(images: Mapping[str, Png]) -> "Summary":
    from tensorboardX.proto.summary_pb2 import Summary

    values = []
    for tag, content in images.items():
        width, height = Image.open(io.BytesIO(content), formats=["PNG"]).size
        image = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=content
        )
        values.append(Summary.Value(tag=tag, image=image))
    return Summary(value=values)
