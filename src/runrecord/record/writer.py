"""Writing a record while its run goes on."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import safetensors.numpy
from pydantic import ValidationError

from runrecord.errors import UserError
from runrecord.events import (
    EpochEnded,
    EvaluationEnded,
    Event,
    ModelSaved,
    Png,
    Resumed,
    RunEnded,
    RunStarted,
)
from runrecord.files import write_atomic
from runrecord.record.schema import (
    EVENTS,
    FORMAT,
    LOCK,
    PATCH,
    START,
    EndLine,
    EpochLine,
    EvaluationLine,
    Line,
    ModelLine,
    ResumedLine,
    StartPart,
    first_error,
)


class RecordWriter:
    """Writes the record in `folder` while the run goes on, event by event, each safe on the disk.

    An event that could not be written (disk full) is kept and written before the next one.
    """

    def __init__(self, folder: Path, size: int = 0) -> None:
        """Begin a record in `folder`, or go on with one whose lines are `size` bytes so far."""
        self.folder = folder
        self._size = size
        self._pending: list[Event] = []

    def write(self, event: Event) -> None:
        """Add an event.

        Raises:
            OSError: it is not on the disk (yet).
            UserError: it is a start that could not be read again.
        """
        self._pending.append(event)
        while self._pending:
            size = self._put(self._pending[0])
            self._size, self._pending = self._size + size, self._pending[1:]

    def seal(self, destination: Path, end: RunEnded) -> None:
        """Put a copy of the record, complete with its `end`, at `destination`.

        Raises:
            OSError: naming a file, when it cannot be written.
        """
        new = destination.with_name(f".{destination.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.parent.mkdir(parents=True, exist_ok=True)
        if self.folder.exists():
            shutil.copytree(self.folder, new, ignore=shutil.ignore_patterns(LOCK, ".*"))
        copy = RecordWriter(new, self._size)
        copy._pending = list(self._pending)
        copy.write(end)
        if destination.exists():
            shutil.rmtree(destination)
        new.rename(destination)

    def _put(self, event: Event) -> int:
        """Write one event; doing it again after a failure is harmless. Returns its line's size."""
        if isinstance(event, RunStarted):
            patch = hashlib.sha256(event.patch).hexdigest() if event.patch else None
            start = {"format": FORMAT, **vars(event), "dataset": vars(event.dataset)}
            start["patch"] = patch
            try:
                StartPart.model_validate(start)
            except ValidationError as error:
                raise UserError(f"this run cannot be recorded: {first_error(error)}.") from None
            if event.patch:
                write_atomic(self.folder / PATCH, event.patch)
            write_atomic(self.folder / START, (json.dumps(start, indent=2) + "\n").encode())
            return 0
        line, files = _as_line(event)
        for name, content in files.items():
            write_atomic(self.folder / name, content)
        data = line.model_dump_json().encode() + b"\n"
        path = self.folder / EVENTS
        try:
            with path.open("ab", buffering=0) as file:
                file.truncate(self._size)  # half a line, from a write that failed
                written = 0
                while written < len(data):
                    written += file.write(data[written:])
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
        return len(data)


def _as_line(event: Event) -> tuple[Line, dict[str, bytes]]:
    """An event as its line, and the files that the line names."""
    match event:
        case EpochEnded():
            names, files = _image_files(event.images, str(event.epoch))
            means, steps = dict(event.means), dict(event.steps)
            line: Line = EpochLine(
                time=event.time, epoch=event.epoch, means=means, steps=steps, images=names
            )
        case ModelSaved():
            name = f"artifacts/{event.name}{Path(event.file).suffix}"
            files = {name: event.path.read_bytes()}
            line = ModelLine(
                time=event.time,
                name=event.name,
                file=name,
                sha256=event.sha256,
                epoch=event.epoch,
            )
        case EvaluationEnded():
            names, files = _image_files(event.images, "1")
            names_of = {model: f"projections/{model}.safetensors" for model in event.embeddings}
            for model, found in event.embeddings.items():
                arrays: dict[str, npt.NDArray[Any]] = {
                    "codes": found.vectors,
                    "labels": found.labels,
                    "images": found.thumbnails,
                }
                files[names_of[model]] = safetensors.numpy.save(arrays)
            line = EvaluationLine(
                time=event.time,
                figures={model: dict(values) for model, values in event.metrics.items()},
                images=names,
                series={model: dict(values) for model, values in event.series.items()},
                configs={model: dict(values) for model, values in event.configs.items()},
                projections=names_of,
            )
        case Resumed():
            line, files = ResumedLine(**vars(event)), {}
        case RunEnded():
            line, files = EndLine(**vars(event)), {}
        case RunStarted():
            raise AssertionError("a run starts once")
    return line, files


def _image_files(images: Mapping[str, Png], stem: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """The file name of each image, by its title; and the content of each file, by its name."""
    names: dict[str, str] = {}
    for title in images:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        while (name := f"images/{slug}/{stem}.png") in names.values():
            slug += "-again"
        names[title] = name
    return names, {names[title]: content for title, content in images.items()}
