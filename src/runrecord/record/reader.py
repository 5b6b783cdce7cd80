"""Reading a record. It believes nothing that a record says."""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.numpy
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError

from runrecord.events import (
    Dataset,
    Embedding,
    EpochEnded,
    EvaluationEnded,
    Event,
    ModelSaved,
    Png,
    Resumed,
    RunEnded,
    RunStarted,
)
from runrecord.files import sha256
from runrecord.record.schema import (
    EVENTS,
    FORMAT,
    LINE,
    PATCH,
    START,
    EndLine,
    EpochLine,
    EvaluationLine,
    Files,
    Line,
    ModelLine,
    RecordRefused,
    ResumedLine,
    StartPart,
    first_error,
)


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

    def artifacts(self) -> list[Path]:
        """Where the files lie that the run logged: models and pictures."""
        return [path for name, path in self._files.items() if "/" in name]

    def last_epoch(self) -> int:
        """The last epoch that is in it, 0 if there is none.

        Raises:
            RecordRefused: a line is damaged.
        """
        return max((line.epoch for line in self._lines() if isinstance(line, EpochLine)), default=0)

    def _lines(self) -> Iterator[Line]:
        if EVENTS not in self._files:
            return
        with self._files[EVENTS].open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield LINE.validate_json(line)
                except ValidationError as error:
                    raise RecordRefused(f"{EVENTS}, line {number}: {first_error(error)}.") from None

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
            start = StartPart.model_validate_json(content)
        except ValidationError as error:
            raise RecordRefused(f"{START}: {first_error(error)}.") from None
        fields = {name: getattr(start, name) for name in StartPart.model_fields if name != "format"}
        fields["dataset"] = Dataset(**dict(start.dataset))
        fields["patch"] = self._content(PATCH) if start.patch else b""
        if start.patch and hashlib.sha256(fields["patch"]).hexdigest() != start.patch:
            raise RecordRefused(f"'{PATCH}' is damaged: its SHA-256 is another.")
        return RunStarted(**fields)

    def _as_event(self, line: Line) -> Event:
        match line:
            case ResumedLine():
                return Resumed(line.time, line.epoch)
            case EpochLine():
                images = self._images(line.images)
                return EpochEnded(line.time, line.epoch, line.steps, line.means, images)
            case ModelLine():
                path = self._path(line.file)
                if sha256(path) != line.sha256:
                    raise RecordRefused(f"'{line.file}' is damaged: its SHA-256 is another.")
                file = line.file.rpartition("/")[2]
                return ModelSaved(line.time, line.name, path, file, line.sha256, line.epoch)
            case EvaluationLine():
                return EvaluationEnded(
                    line.time,
                    line.figures,
                    self._images(line.images),
                    line.series,
                    line.configs,
                    {model: self._embedding(name) for model, name in line.projections.items()},
                )
            case EndLine():
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

    def _embedding(self, name: str) -> Embedding:
        try:
            found = safetensors.numpy.load(self._content(name))
            vectors, labels, images = (found[key] for key in ("codes", "labels", "images"))
        except (SafetensorError, KeyError):
            raise RecordRefused(f"'{name}' holds no embedding, or is damaged.") from None
        layouts = [(array.dtype.name, array.ndim) for array in (vectors, labels, images)]
        counts = {array.shape[:1] for array in (vectors, labels, images)}
        if layouts != [("float32", 2), ("uint8", 1), ("uint8", 3)] or len(counts) != 1:
            raise RecordRefused(f"'{name}' holds vectors, labels and images that do not fit.")
        return Embedding(vectors, labels, images)

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
        if path.is_file() and not path.name.startswith(".") and _stays(path, folder)
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


def _ended(line: bytes) -> RunEnded | None:
    try:
        end = EndLine.model_validate_json(line)
    except ValidationError:
        return None
    return _as_end(end)


def _as_end(line: EndLine) -> RunEnded:
    return RunEnded(
        **{name: getattr(line, name) for name in EndLine.model_fields if name != "event"}
    )


def _time(line: bytes) -> int:
    try:
        return int(json.loads(line)["time"])
    except (ValueError, TypeError, KeyError):
        raise RecordRefused(f"the last line of {EVENTS} is damaged.") from None
