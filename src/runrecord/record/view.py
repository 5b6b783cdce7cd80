"""All that a record tells of a run, folded into one view: for pages, comparisons and audits."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from runrecord.record.events import (
    Event,
    File,
    Logged,
    ModelEvaluated,
    ModelSaved,
    Observed,
    RunStarted,
)
from runrecord.record.reader import Record

EVALUATION = "Eval/"
"""Before the names of the metrics that an evaluation puts on the runs that trained its models."""

Series = dict[int, tuple[float, list[float]]]
"""A metric's value and its values within the step, by step; an evaluation's metric is at step 0.

Of an evaluation's curves, the step is the point's x.
"""


@dataclass
class RunView:
    """A run as its record tells of it, less files that are damaged."""

    record: Record
    series: dict[str, Series] = field(default_factory=dict)
    """By the metric's name; of an evaluated model `MODEL/METRIC`."""
    images: dict[tuple[str, int], File] = field(default_factory=dict)
    """By title and step."""
    files: dict[str, File] = field(default_factory=dict)
    """Texts and artifacts, the last of each title."""
    tags: dict[str, str] = field(default_factory=dict)
    """Those that it began with, and those added later."""
    observed: dict[str, list[float]] = field(default_factory=dict)
    """What the machine did, in order, by name."""
    models: list[ModelSaved] = field(default_factory=list)
    evaluated: dict[str, ModelEvaluated] = field(default_factory=dict)
    """By the model's name."""

    @property
    def start(self) -> RunStarted:
        """How it began."""
        return self.record.start

    @property
    def model(self) -> str | None:
        """The SHA-256 of the model it made, the last if there are several."""
        return self.models[-1].file.sha256 if self.models else None

    @property
    def status(self) -> str:
        """How it ended; RUNNING if its record does not say."""
        return self.record.end.status if self.record.end else "RUNNING"

    @property
    def seconds(self) -> float:
        """From its start to its last sign of life."""
        return (self.record.last_sign_of_life - self.start.time) / 1000

    def last_step(self) -> int:
        """The last step at which something was logged, 0 if nothing was."""
        return max((step for points in self.series.values() for step in points), default=0)

    def last_values(self) -> dict[str, float]:
        """Each metric's value at its last step."""
        return {name: points[max(points)][0] for name, points in self.series.items() if points}

    def last_images(self) -> dict[str, File]:
        """The last picture of each title."""
        by_step = sorted(self.images.items(), key=lambda image: image[0][1])
        return {title: file for (title, _), file in by_step}


def view(record: Record, events: Iterable[Event] | None = None) -> RunView:
    """A run, from its record, whose events may have been read already.

    Raises:
        RecordRefused: the record is damaged.
    """
    run = RunView(record, tags=dict(record.start.tags))
    for event in record.events() if events is None else events:
        match event:
            case Logged():
                for name in {**event.metrics, **event.steps}:
                    within = event.steps.get(name, [])
                    value = event.metrics.get(name, within[-1] if within else float("nan"))
                    run.series.setdefault(name, {})[event.step] = value, within
                run.images |= {(title, event.step): file for title, file in event.images.items()}
                run.files |= {**event.texts, **event.artifacts}
                run.tags |= event.tags
            case Observed():
                for name, value in event.values.items():
                    run.observed.setdefault(name, []).append(value)
            case ModelSaved():
                run.models.append(event)
            case ModelEvaluated():
                run.evaluated[event.model] = event
                for name, value in event.metrics.items():
                    run.series[f"{event.model}/{name}"] = {0: (value, [])}
                for name, points in event.series.items():
                    run.series[f"{event.model}/{name}"] = {x: (y, []) for x, y in points}
    return run
