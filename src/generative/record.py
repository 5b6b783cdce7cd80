"""The record of a run: a folder that a person can read and sinks can play; docs/records.md.

`run.json` says what began, `events.jsonl` what happened since, a line an event, in order;
`images/`, `artifacts/` and `projections/` hold what the lines name.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.numpy
from PIL import Image
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from safetensors import SafetensorError

from generative.files import sha256, write_atomic
from generative.git import COMMIT
from generative.redact import printable
from generative.tracking.events import (
    Dataset,
    EpochEnded,
    Event,
    ModelSaved,
    ModelsEvaluated,
    Png,
    Projection,
    Resumed,
    RunEnded,
    RunStarted,
    Status,
)

FORMAT = 1
START, EVENTS, PATCH = "run.json", "events.jsonl", "change.patch"
LOCK = "lock"
"""Held by the process that runs, while it runs; no part of the record."""

Files = Mapping[str, Path]
"""A record's files by their names in it, wherever they lie: in one folder, or in DVC's cache."""


def _unreserved(tag: str) -> str:
    """Refuse a tag that would mean something to MLflow, or that the MLflow sink sets itself."""
    if tag.startswith(("mlflow.", "record.", "model.")):
        raise ValueError(f"the tag '{tag}' is not a record's to set")
    return tag


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-/ ]+$", max_length=250)]
Tag = Annotated[Key, AfterValidator(_unreserved)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RecordRefused(Exception):
    """A record cannot be used; the message is one sentence for a person."""


class _Part(BaseModel):
    """Fields may be added without a new format: what a reader does not know, it passes over."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", ser_json_inf_nan="constants"
    )


class _Dataset(_Part):
    name: str
    digest: str
    source: str


class _Start(_Part):
    format: int
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    stage: Name
    time: int
    host: str
    params: dict[Key, str | int | float | bool]
    tags: dict[Tag, str]
    dataset: _Dataset
    models: dict[Name, Sha256]
    deps: dict[str, Sha256] = {}
    patch: Sha256 | None = None
    """Of the file `change.patch`."""

    @field_validator("tags")
    @classmethod
    def _harmless(cls, tags: dict[str, str]) -> dict[str, str]:
        """Refuse what Git could take for an option; show what could steer a terminal as U+FFFD."""
        for name, value in tags.items():
            if name == "git.commit" and not COMMIT.fullmatch(value):
                raise ValueError(f"the tag '{name}' is no commit id")
            if name.startswith(("git.", "dvc.")) and value.startswith("-"):
                raise ValueError(f"the tag '{name}' begins with '-'")
        return {name: printable(value) for name, value in tags.items()}


class _Resumed(_Part):
    event: Literal["resumed"] = "resumed"
    time: int
    epoch: int


class _Epoch(_Part):
    event: Literal["epoch"] = "epoch"
    time: int
    epoch: Annotated[int, Field(ge=1)]
    means: dict[Key, float]
    steps: dict[Key, list[float]]
    images: dict[str, str]


class _Model(_Part):
    event: Literal["model"] = "model"
    time: int
    name: Name
    file: str
    sha256: Sha256
    epoch: int


class _Evaluation(_Part):
    event: Literal["evaluation"] = "evaluation"
    time: int
    figures: dict[Name, dict[Key, float]]
    images: dict[str, str]
    series: dict[Name, dict[Key, list[tuple[Annotated[int, Field(ge=1)], float]]]] = {}
    configs: dict[Name, dict[Key, str | int | float | bool]] = {}
    projections: dict[Name, str] = {}


class _End(_Part):
    event: Literal["end"] = "end"
    time: int
    status: Status
    message: str
    traceback: str
    changed: tuple[str, ...] = ()
    outs: dict[Key, Sha256] = {}


_Line = Annotated[_Resumed | _Epoch | _Model | _Evaluation | _End, Field(discriminator="event")]
_LINE: TypeAdapter[_Line] = TypeAdapter(_Line)


class Journal:
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
        copy = Journal(new, self._size)
        copy._pending = list(self._pending)
        copy.write(end)
        if destination.exists():
            shutil.rmtree(destination)
        new.rename(destination)

    def _put(self, event: Event) -> int:
        """Write one event; doing it again after a failure is harmless. Returns its line's size."""
        if isinstance(event, RunStarted):
            patch = hashlib.sha256(event.patch).hexdigest() if event.patch else None
            if event.patch:
                write_atomic(self.folder / PATCH, event.patch)
            start = {"format": FORMAT, **vars(event), "dataset": vars(event.dataset)}
            start["patch"] = patch
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


class Record:
    """A record that was written, opened to be read. Reading it believes nothing it says."""

    def __init__(self, files: Files) -> None:
        """Read how the run began, and how much there is.

        Raises:
            RecordRefused: this is no record, is damaged, or comes from a newer version.
        """
        self._files = files
        content = self._content(START)
        self.start = self._started(content)
        events = files[EVENTS].read_bytes() if EVENTS in files else b""
        complete, _, rest = events.rpartition(b"\n")
        self.size = len(events) - len(rest)
        """How many bytes of whole lines there are."""
        self.cut_off = bool(rest)
        """The last line is not whole: the machine stopped while it was written."""
        lines = complete.split(b"\n") if complete else []
        self.length = 1 + len(lines)
        """How many events there are, the start among them."""
        self.end = _ended(lines[-1]) if lines else None
        self.last_sign_of_life = _time(lines[-1]) if lines else self.start.time
        """When the last event was, in milliseconds since 1970."""

    def events(self) -> Iterator[Event]:
        """What happened, in order, from the start on.

        Raises:
            RecordRefused: a line or a file it names is damaged, missing or not to be trusted.
        """
        yield self.start
        yield from map(self._as_event, self._lines())

    def last_epoch(self) -> int:
        """The last epoch that is in it, 0 if there is none.

        Raises:
            RecordRefused: a line is damaged.
        """
        return max((line.epoch for line in self._lines() if isinstance(line, _Epoch)), default=0)

    def _lines(self) -> Iterator[_Line]:
        if EVENTS not in self._files:
            return
        with self._files[EVENTS].open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield _LINE.validate_json(line)
                except ValidationError as error:
                    raise RecordRefused(f"{EVENTS}, line {number}: {_first(error)}.") from None

    def _started(self, content: bytes) -> RunStarted:
        try:
            document: Any = json.loads(content)
            version = document["format"]
        except (ValueError, TypeError, KeyError):
            raise RecordRefused(f"{START} is not a run's: it is no JSON with a 'format'.") from None
        if isinstance(version, int) and version > FORMAT:
            raise RecordRefused(
                f"it has format {version}, and this version reads up to {FORMAT}; update this "
                "checkout."
            )
        try:
            start = _Start.model_validate_json(content)
        except ValidationError as error:
            raise RecordRefused(f"{START}: {_first(error)}.") from None
        fields = {name: getattr(start, name) for name in _Start.model_fields if name != "format"}
        fields["dataset"] = Dataset(**dict(start.dataset))
        fields["patch"] = self._content(PATCH) if start.patch else b""
        if start.patch and hashlib.sha256(fields["patch"]).hexdigest() != start.patch:
            raise RecordRefused(f"'{PATCH}' is damaged: its SHA-256 is another.")
        return RunStarted(**fields)

    def _as_event(self, line: _Line) -> Event:
        match line:
            case _Resumed():
                return Resumed(line.time, line.epoch)
            case _Epoch():
                images = self._images(line.images)
                return EpochEnded(line.time, line.epoch, line.steps, line.means, images)
            case _Model():
                path = self._path(line.file)
                if sha256(path) != line.sha256:
                    raise RecordRefused(f"'{line.file}' is damaged: its SHA-256 is another.")
                return ModelSaved(line.time, line.name, path, line.sha256, line.epoch)
            case _Evaluation():
                return ModelsEvaluated(
                    line.time,
                    line.figures,
                    self._images(line.images),
                    line.series,
                    line.configs,
                    {model: self._projection(name) for model, name in line.projections.items()},
                )
            case _End():
                return _as_end(line)

    def _images(self, names: Mapping[str, str]) -> dict[str, Png]:
        return {title: self._image(name) for title, name in names.items()}

    def _image(self, name: str) -> Png:
        content = self._content(name)
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                image.verify()
        except Exception:  # whatever Pillow says of a damaged file
            raise RecordRefused(f"'{name}' is no PNG, or damaged.") from None
        return content

    def _projection(self, name: str) -> Projection:
        try:
            found = safetensors.numpy.load(self._content(name))
            codes, labels, images = (found[key] for key in ("codes", "labels", "images"))
        except (SafetensorError, KeyError):
            raise RecordRefused(f"'{name}' holds no codes, or is damaged.") from None
        layouts = [(array.dtype.name, array.ndim) for array in (codes, labels, images)]
        counts = {array.shape[:1] for array in (codes, labels, images)}
        if layouts != [("float32", 2), ("uint8", 1), ("uint8", 3)] or len(counts) != 1:
            raise RecordRefused(f"'{name}' holds codes, labels and images that do not fit.")
        return Projection(codes, labels, images)

    def _content(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except OSError as error:
            raise RecordRefused(f"'{name}' cannot be read: {error.strerror}.") from None

    def _path(self, name: str) -> Path:
        """Where a file lies. Names are looked up, not joined to a path: none leads outside."""
        if name not in self._files:
            raise RecordRefused(f"it names '{name}', which is none of its files.")
        return self._files[name]


def files_in(folder: Path) -> Files:
    """The files of the record in `folder`; links are followed where DVC's cache made them."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _stays(path, folder)
    }


def _stays(path: Path, folder: Path) -> bool:
    """Does `path` stay in `folder`? DVC's links lead to files named after their content's MD5."""
    target = path.resolve()
    if target.is_relative_to(folder.resolve()):
        return True
    in_cache = re.fullmatch(r".*/files/md5/([0-9a-f]{2})/([0-9a-f]{30})", target.as_posix())
    if in_cache is None:
        return False
    content = hashlib.md5(target.read_bytes(), usedforsecurity=False).hexdigest()
    return content == "".join(in_cache.groups())


def _as_line(event: Event) -> tuple[_Line, dict[str, bytes]]:
    """An event as its line, and the files that the line names."""
    match event:
        case EpochEnded():
            names, files = _image_files(event.images, str(event.epoch))
            means, steps = dict(event.means), dict(event.steps)
            line: _Line = _Epoch(
                time=event.time, epoch=event.epoch, means=means, steps=steps, images=names
            )
        case ModelSaved():
            name = f"artifacts/{event.name}.safetensors"
            files = {name: event.path.read_bytes()}
            line = _Model(
                time=event.time,
                name=event.name,
                file=name,
                sha256=event.sha256,
                epoch=event.epoch,
            )
        case ModelsEvaluated():
            names, files = _image_files(event.images, "1")
            projections = {model: f"projections/{model}.safetensors" for model in event.projections}
            for model, projection in event.projections.items():
                files[projections[model]] = safetensors.numpy.save(vars(projection))
            line = _Evaluation(
                time=event.time,
                figures={model: dict(values) for model, values in event.figures.items()},
                images=names,
                series={model: dict(values) for model, values in event.series.items()},
                configs={model: dict(values) for model, values in event.configs.items()},
                projections=projections,
            )
        case Resumed():
            line, files = _Resumed(**vars(event)), {}
        case RunEnded():
            line, files = _End(**vars(event)), {}
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


def _ended(line: bytes) -> RunEnded | None:
    try:
        end = _End.model_validate_json(line)
    except ValidationError:
        return None
    return _as_end(end)


def _as_end(line: _End) -> RunEnded:
    return RunEnded(**{name: getattr(line, name) for name in _End.model_fields if name != "event"})


def _time(line: bytes) -> int:
    try:
        return int(json.loads(line)["time"])
    except (ValueError, TypeError, KeyError):
        raise RecordRefused(f"the last line of {EVENTS} is damaged.") from None


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in detail['loc']) or 'it'}: {detail['msg'].lower()}"
