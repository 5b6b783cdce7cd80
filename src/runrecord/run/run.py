"""The face of a run that goes on: what a stage, or any script, logs to."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from runrecord.errors import UserError
from runrecord.files import sha256
from runrecord.provenance.environment import refuse_own
from runrecord.record.events import (
    ANY_FILE,
    Event,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Observed,
    Resumed,
    RunStarted,
    files_of,
    made,
    now,
)
from runrecord.record.recordable import Embedding, brief, packed, png_of, readable
from runrecord.resume.checkpoints import (
    DIFFERS,
    Checkpoint,
    Checkpoints,
    Key,
    OnRecord,
    State,
    difference,
    found_in,
    not_logged_again,
)
from runrecord.run.tracker import Tracker
from runrecord.safety.secrets import redact
from runrecord.safety.text import printable, say


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
        self._begun = 0  # how many events there were when the epochs began
        self._on_record: OnRecord = stopped.logged if stopped else {}
        """Of a run that goes on: what it had logged until it was stopped."""
        self._differs = not tracker.records
        """It has been said that a repeated epoch does not give the same; rank 0 says it."""
        self.output = b""  # what its program printed, where `runrecord exec` keeps that
        self.id = start.id  # the run's name, and its record's
        self.params = dict(start.params)
        """What it is shown with: the params of its stage, nested ones by dotted names."""
        self.tags = dict(start.tags)  # what it comes from and runs on, and what `tag` added

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
        event = made(
            Logged,
            time=now(),
            step=self._at(step),
            metrics=metrics,
            steps={} if within is None else within,
        )
        if lacking := event.steps.keys() - event.metrics.keys():
            raise UserError(
                f"cannot record this: {min(lacking)!r} has values within the step, and none "
                "among the metrics for the step itself; give that too."
            )
        new = {
            name: value
            for name, value in event.metrics.items()
            if self._is_new(("metrics", name, event.step), [value, *event.steps.get(name, [])])
        }
        if new:
            steps = {name: taken for name, taken in event.steps.items() if name in new}
            self._tracker.log(replace(event, metrics=new, steps=steps))

    def observe(self, values: Mapping[str, float]) -> None:
        """Say how the run does on its machine, as `images_per_second`.

        MLflow shows it among its system metrics, beside what is sampled of the machine all the
        while; nothing compares it.
        """
        self._tracker.log(made(Observed, time=now(), values=values))

    def image(
        self, title: str, image: "bytes | np.ndarray[Any, Any]", step: int | None = None
    ) -> None:
        """Log a picture: a PNG file's content, or bytes as (H, W) or (H, W, 3)."""
        self._log_titled("images", title, png_of(title, image), ".png", step)

    def figure(self, title: str, figure: Any, step: int | None = None) -> None:
        """Log a figure of Matplotlib as a picture."""
        if not hasattr(figure, "savefig"):
            raise UserError(f"cannot record picture {title!r}: {brief(figure)} is not a figure.")
        file = io.BytesIO()
        figure.savefig(file, format="png")
        self.image(title, file.getvalue(), step)

    def text(self, title: str, text: str, step: int | None = None) -> None:
        """Log a text; what the environment holds secret is blacked out."""
        if not isinstance(text, str):
            raise UserError(f"cannot record this: {title!r} is {brief(text)}, not a text.")
        content = redact(text).encode(errors="replace")
        self._log_titled("texts", title, content, ".txt", step)

    def artifact(self, path: Path | str, title: str | None = None, step: int | None = None) -> None:
        """Keep a copy of a file, by its name or another title."""
        path = readable(path)
        self._log_titled("artifacts", title or path.name, path, path.suffix, step)

    def tag(self, **tags: str) -> None:
        """Say more of the run: tags are shown, and never compared."""
        refuse_own(tags)
        self._tag(**tags)

    def _tag(self, **tags: str) -> None:
        self._tracker.log(made(Logged, time=now(), step=self._epoch, tags=tags))
        self.tags |= tags

    def model(self, path: Path | str, name: str | None = None, step: int | None = None) -> None:
        """Log a model's file, by its stem or another name."""
        path = readable(path).resolve()
        event = made(
            ModelSaved,
            time=now(),
            name=name or path.stem,
            file=ANY_FILE,
            filename=path.name,
            step=self._at(step),
        )
        key = ("models", event.name, event.step)
        self._log_file(event, "file", key, path, path.suffix, "artifacts")

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
            series: the points of curves, x being a whole number from 0, by name.
            config: how it was built and trained, as JSON values.
            embedding: of some examples.
        """
        event = made(
            ModelEvaluated,
            time=now(),
            model=model,
            sha256=sha256(readable(path)),
            metrics=metrics,
            series={} if series is None else series,
            config={} if config is None else config,
        )
        if twice := event.metrics.keys() & event.series.keys():
            raise UserError(
                f"cannot record this: {min(twice)!r} is a metric and a curve; rename one."
            )
        if not self._is_new(("evaluated", f"{model} {event.sha256}", 0), found_in(event)):
            return
        if embedding is None:
            self._tracker.log(event)
        else:
            content, key = packed(model, embedding), ("embeddings", model, 0)
            self._log_file(event, "embedding", key, content, ".safetensors")

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
        try:
            count = index(count)
        except TypeError:
            raise UserError(f"epochs({brief(count)}): the count is not a whole number.") from None
        if state is not None and self._goes_on:
            raise UserError("a run can keep the state of one loop of epochs; make these one loop.")
        if state is not None and not isinstance(state, State):
            raise UserError(
                f"epochs(state={brief(state)}): it needs the methods state_dict and "
                "load_state_dict; give them to a class of yours that holds all that changes."
            )
        self._goes_on |= state is not None
        done = self._go_on(count, state) if state is not None else 0
        for epoch in range(done + 1, count + 1):
            self._epoch = epoch
            yield epoch
            if state is not None:
                length, arrays = self._tracker.length, state.state_dict()
                self._checkpoints.save(self.id, epoch, length, arrays, self._begun, self._on_record)

    def _go_on(self, count: int, state: State) -> int:
        """Be where this run was stopped, or where a shorter one ended; the epochs behind that."""
        if self._stopped:
            saved = self._stopped.saved
            state.load_state_dict(saved.arrays)
            self._epoch, self._begun = saved.epoch, saved.begun
            self._tracker.log(Resumed(now(), saved.epoch))
            say(f"resuming {self.id} after epoch {saved.epoch}")
            return saved.epoch
        self._begun = self._tracker.length
        earlier = self._checkpoints.earlier(count)
        if earlier is None:
            if why := self._checkpoints.why_anew():
                say(why)
            return 0
        saved, contents = earlier.saved, earlier.record.contents
        state.load_state_dict(saved.arrays)
        for event in earlier.epochs:
            if isinstance(event, Logged | ModelSaved | ModelEvaluated):
                files = {file.name: contents[file.name] for file in files_of(event)}
                self._tracker.log(replace(event, time=now()), files)
        self._epoch = saved.epoch
        self._tag(continues=saved.run_id)
        say(f"continuing {saved.run_id}: this run has its epochs 1 to {saved.epoch}")
        return saved.epoch

    def __reduce__(self) -> NoReturn:
        raise UserError(
            "a run stays in the process that started it: send values back, and log them there."
        )

    def _at(self, step: int | None) -> int:
        return self._epoch if step is None else step

    def _is_new(self, key: Key, value: object) -> bool:
        """Is that not on record yet? If it is, and was another, that is said once."""
        if left := self._on_record.get(key):  # twice, if it was logged twice
            self._say_once(difference(key, left.pop(0), value))
            return False
        return True

    def _check_repeated(self) -> None:
        """Say, once the work is done, what was logged before a stop and not again."""
        self._say_once(not_logged_again(self._on_record))

    def _say_once(self, differs: str) -> None:
        if differs and not self._differs and ("tags", DIFFERS, 0) not in self._on_record:
            self._differs = True
            say(f"warning: {printable(differs)}.")
            self._tag(**{DIFFERS: differs})

    def _log_titled(
        self, kind: str, title: str, content: bytes | Path, suffix: str, step: int | None
    ) -> None:
        event = made(Logged, time=now(), step=self._at(step), **{kind: {title: ANY_FILE}})
        self._log_file(event, kind, (kind, title, event.step), content, suffix)

    def _log_file(
        self,
        event: Event,
        field: str,
        key: Key,
        content: bytes | Path,
        suffix: str,
        folder: str | None = None,
    ) -> None:
        """Log an event with a file in that field, which is copied only if it is not on record."""
        if key in self._on_record and not self._is_new(key, sha256(content)):
            return
        kind, title, _ = key
        file, contents = self._tracker.keep(folder or kind, title, content, suffix)
        named: Any = {title: file} if isinstance(event, Logged) else file
        self._tracker.log(replace(event, **{field: named}), contents)
