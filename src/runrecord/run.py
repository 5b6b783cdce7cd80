"""The face of a run that goes on: what a stage, or any script, logs to."""

import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runrecord.checkpoints import Checkpoint, Checkpoints, State
from runrecord.errors import UserError
from runrecord.events import (
    Contents,
    Event,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Observed,
    Resumed,
    RunStarted,
    files_of,
)
from runrecord.files import sha256
from runrecord.record.embedding import Embedding, pack
from runrecord.record.picture import is_png, png_of
from runrecord.record.writer import file_for
from runrecord.secrets import redact
from runrecord.text import printable
from runrecord.tracker import Tracker


class Figure(Protocol):
    """A figure of Matplotlib's kind."""

    def savefig(self, file: io.BytesIO, /, *, format: str) -> object: ...  # noqa: A002


class Run:
    """A run that goes on. Each call is on record when it returns, and shown soon after.

    Titles are one line of at most 250 characters, whatever those are. A step is an epoch, or
    whatever is counted; without one, it is the epoch of `epochs`, or 0. All raise UserError for
    what cannot be recorded.
    """

    def __init__(
        self,
        start: RunStarted,
        tracker: Tracker,
        checkpoints: Checkpoints,
        stopped: Checkpoint | None = None,
    ) -> None:
        """Only `start_run` makes one; `stopped` is where it goes on."""
        self._tracker = tracker
        self._checkpoints = checkpoints
        self._stopped = stopped
        self._epoch = 0
        self._goes_on = False
        self._begun = 0
        """How many events there were when the epochs began."""
        self._on_record = stopped.logged if stopped else frozenset()
        """Of a run that goes on: what it had logged until it was stopped."""
        self.output = b""
        """What its program printed, where `runrecord exec` keeps that."""
        self.id = start.id
        """The run's name, and its record's."""
        self.params = dict(start.params)
        """What it is shown with: the params of its stage, nested ones by dotted names."""
        self.tags = dict(start.tags)
        """What it comes from and runs on, and what `tag` added."""

    def log(
        self,
        metrics: Mapping[str, float],
        step: int | None = None,
        within: Mapping[str, list[float]] | None = None,
    ) -> None:
        """Log the value of each metric at a step.

        Args:
            metrics: values, NaN and infinity too.
            step: an epoch, or whatever is counted.
            within: of metrics that were taken several times in that step, as a loss each batch,
                all values in order.
        """
        step = self._at(step)
        new = _numbers({name: one for name, one in metrics.items() if self._is_new(name, step)})
        steps = {
            name: [_number(name, value) for value in values]
            for name, values in (within or {}).items()
            if name in new
        }
        if new:
            self._log(step=step, metrics=new, steps=steps)

    def observe(self, values: Mapping[str, float]) -> None:
        """Say how the run does on its machine, as `images_per_second`.

        MLflow shows it among its system metrics, beside what is sampled of the machine all the
        while; nothing compares it.
        """
        numbers = _numbers(values)
        self._emit(lambda: Observed(now(), numbers))

    def image(
        self, title: str, image: "bytes | np.ndarray[Any, Any]", step: int | None = None
    ) -> None:
        """Log a picture: a PNG file's content, or bytes as (H, W) or (H, W, 3)."""
        png = _checked(title, image) if isinstance(image, bytes) else _as_png(image)
        self._log_file("images", title, png, ".png", step)

    def figure(self, title: str, figure: Figure, step: int | None = None) -> None:
        """Log a figure of Matplotlib as a picture."""
        file = io.BytesIO()
        figure.savefig(file, format="png")
        self.image(title, file.getvalue(), step)

    def text(self, title: str, text: str, step: int | None = None) -> None:
        """Log a text; what the environment holds secret is blacked out."""
        if not isinstance(text, str):
            raise UserError(f"this cannot be recorded: {title!r} is {repr(text)[:60]}, no text.")
        self._log_file("texts", title, redact(text).encode(errors="replace"), ".txt", step)

    def artifact(self, path: Path | str, title: str | None = None, step: int | None = None) -> None:
        """Keep a copy of a file, by its name or another title."""
        path = Path(path)
        self._log_file("artifacts", title or path.name, path, path.suffix, step)

    def tag(self, **tags: str) -> None:
        """Say more of the run: tags are shown, and never compared."""
        self._log(step=self._at(None), tags=tags)
        self.tags |= tags

    def model(self, path: Path | str, name: str | None = None, step: int | None = None) -> None:
        """Log a model's file, by its stem or another name."""
        path = Path(path).resolve()
        name, step = name or path.stem, self._at(step)
        if self._is_new(name, step, "models"):
            file = file_for("artifacts", name, path, path.suffix)
            self._emit(lambda: ModelSaved(now(), name, file, path.name, step), {file.name: path})

    def evaluation(
        self,
        model: str,
        path: Path | str,
        metrics: Mapping[str, float],
        series: Mapping[str, list[tuple[int, float]]] | None = None,
        config: Mapping[str, Any] | None = None,
        embedding: Embedding | None = None,
    ) -> None:
        """Log what an evaluation found of a model; trackers show it at the run that trained it too.

        Args:
            model: its name.
            path: its file, which tells by its content which run made it.
            metrics: by name.
            series: the points of curves, x being 1 or more, by name.
            config: how it was built and trained, as JSON values.
            embedding: of some examples.
        """
        digest = sha256(Path(path))
        if not self._is_new(f"{model} {digest}", 0, "evaluated"):
            return
        values = _numbers(metrics)
        curves = {title: _points(title, points) for title, points in (series or {}).items()}
        packed = _packed(model, embedding) if embedding else b""
        file = file_for("embeddings", model, packed, ".safetensors") if embedding else None
        self._emit(
            lambda: ModelEvaluated(now(), model, digest, values, curves, config or {}, file),
            {file.name: packed} if file else {},
        )

    def epochs(self, count: int, state: State | None = None) -> Iterator[int]:
        """The numbers of epochs, from 1 to `count`; less those that are behind a stopped run.

        Args:
            count: how many there are to be in all.
            state: what training changes. After each epoch it is kept; a run that was stopped and
                is started again, with all it depends on as it was, goes on from there, to the same
                bits. It has to hold all of it: the state of generators of random numbers too. One
                loop of a run can have one. After `break` it is not kept: what goes on repeats that
                epoch, and leaves the loop there too.
        """
        if state is not None and self._goes_on:
            raise UserError("a run can keep the state of one loop of epochs; make these one loop.")
        self._goes_on |= state is not None
        done = self._go_on(count, state) if state is not None else 0
        for epoch in range(done + 1, count + 1):
            self._epoch = epoch
            yield epoch
            if state is not None:
                length, arrays = self._tracker.length, state.state_dict()
                self._checkpoints.save(self.id, epoch, length, arrays, self._begun)

    def _go_on(self, count: int, state: State) -> int:
        """Be where this run was stopped, or where a shorter one ended; the epochs behind that."""
        if self._stopped:
            saved = self._stopped.saved
            state.load_state_dict(saved.arrays)
            self._epoch, self._begun = saved.epoch, saved.begun
            self._tracker.log(Resumed(now(), saved.epoch))
            print(f"going on with {self.id} after epoch {saved.epoch}")
            return saved.epoch
        self._begun = self._tracker.length
        earlier = self._checkpoints.earlier(count)
        if earlier is None:
            if why := self._checkpoints.why_anew(count):
                print(why)
            return 0
        saved, contents = earlier.saved, earlier.record.contents
        state.load_state_dict(saved.arrays)
        for event in earlier.events():
            if isinstance(event, Logged | ModelSaved | ModelEvaluated):
                files = {file.name: contents[file.name] for file in files_of(event)}
                self._tracker.log(replace(event, time=now()), files)
        self._epoch, self._on_record = saved.epoch, earlier.logged
        self.tag(continues=saved.run_id)
        print(f"going on from {saved.run_id}, whose epochs 1 to {saved.epoch} this run has too")
        return saved.epoch

    def _at(self, step: int | None) -> int:
        """The step that is meant: NumPy's and PyTorch's whole numbers are taken too."""
        try:
            return self._epoch if step is None else index(step)
        except (TypeError, ValueError):
            raise UserError(f"this cannot be recorded: step {step!r} is no whole number.") from None

    def _is_new(self, title: str, step: int, kind: str = "metrics") -> bool:
        return (kind, title, step) not in self._on_record

    def _log_file(
        self, kind: str, title: str, content: bytes | Path, suffix: str, step: int | None
    ) -> None:
        step = self._at(step)
        if self._is_new(title, step, kind):
            file = file_for(kind, title, content, suffix)
            self._log({file.name: content}, step=step, **{kind: {title: file}})

    def _log(self, contents: Contents | None = None, **fields: Any) -> None:
        self._emit(lambda: Logged(now(), **fields), contents)

    def _emit(self, make: Callable[[], Event], contents: Contents | None = None) -> None:
        try:
            event = make()
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this cannot be recorded: {printable(str(error))}.") from None
        self._tracker.log(event, contents)


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {name: _number(name, value) for name, value in values.items()}


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # as PyTorch says it
        raise UserError(
            f"this cannot be recorded: {name!r} is {repr(value)[:60]}, which is no number."
        ) from None


def _points(title: str, points: Any) -> list[tuple[int, float]]:
    try:
        return [(index(x), _number(title, y)) for x, y in points]
    except (TypeError, ValueError):
        raise UserError(
            f"this cannot be recorded: {title!r} is {repr(points)[:60]}, which is no list of pairs "
            "of a whole number and a number."
        ) from None


def _packed(model: str, embedding: Embedding) -> bytes:
    try:
        return pack(embedding)
    except ValueError as error:
        raise UserError(f"this cannot be recorded: {model!r} has {error}.") from None


def _checked(title: str, png: bytes) -> bytes:
    if not is_png(io.BytesIO(png)):
        raise UserError(f"this cannot be recorded: {title!r} is no PNG file's content.")
    return png


def _as_png(pixels: "np.ndarray[Any, Any]") -> bytes:
    try:
        return png_of(np.asarray(pixels))
    except ValueError as error:
        raise UserError(str(error)) from None


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
