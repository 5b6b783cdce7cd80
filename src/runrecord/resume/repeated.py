"""What a resumed run has on record already, and whether a repeated epoch gives the same again."""

from collections.abc import Iterable, Mapping
from itertools import zip_longest

from runrecord.record.events import Event, Logged, ModelEvaluated, ModelSaved

Key = tuple[str, str, int]
"""Of something logged: kind, title and step."""
OnRecord = Mapping[Key, list[object]]
"""A metric's value and its values within the step, or the SHA-256 of a file, as often as logged."""

_SHORT = 12  # characters of a SHA-256
_LONGEST = 60  # characters of a title
DIFFERS = "resumed.differs"
"""The tag of a run whose repeated epochs did not give the same."""


def on_record(events: Iterable[Event]) -> OnRecord:
    """All that those events logged."""
    found: dict[Key, list[object]] = {}

    def add(kind: str, title: str, step: int, value: object) -> None:
        found.setdefault((kind, title, step), []).append(value)

    for event in events:
        match event:
            case Logged(step=step):
                for name, value in event.metrics.items():
                    add("metrics", name, step, (value, [*event.steps.get(name, [])]))
                for kind in ("images", "texts", "artifacts"):
                    for title, file in getattr(event, kind).items():
                        add(kind, title, step, file.sha256)
                for name, text in event.tags.items():
                    add("tags", name, 0, text)
            case ModelSaved():
                add("models", event.name, event.step, event.file.sha256)
            case ModelEvaluated():
                add("evaluated", f"{event.model} {event.sha256}", 0, found_in(event))
    return found


def has_tags(event: Event) -> bool:
    """Does an event tag its run? Nothing else is logged with tags."""
    return isinstance(event, Logged) and bool(event.tags)


def found_in(event: ModelEvaluated) -> dict[str, object]:
    """What an evaluation found: its metrics, curves and config."""
    curves = {f"curve {name}": [(x, y) for x, y in points] for name, points in event.series.items()}
    config = {f"config {name}": value for name, value in event.config.items()}
    return {**event.metrics, **curves, **config}


def not_logged_again(left: OnRecord) -> str:
    """What a run logged before a stop and not again, as a sentence; empty if nothing."""
    keys = [key for key, values in left.items() if values and key[0] != "tags"]
    if not keys:
        return ""
    key = min(keys, key=lambda key: key[2])
    return f"{_name(key)} of epoch {key[2]} was logged before the stop, and not again after it"


def difference(key: Key, was: object, now: object) -> str:
    """How what is logged again differs from the record, as a sentence; empty if it does not."""
    if repr(now) == repr(was):
        return ""
    pairs = zip_longest(_parts(was), _parts(now))
    old, new = next(pair for pair in pairs if repr(pair[0]) != repr(pair[1]))
    return (
        f"epoch {key[2]} was computed again after the stop, and {_name(key)} differs: {old} on "
        f"record, {new} now; the record keeps the first, and what follows comes from the second"
    )


def _name(key: Key) -> str:
    kind, title, _ = key
    return title if kind == "metrics" else f"{kind}: {title[:_LONGEST]}"


def _parts(logged: object) -> Iterable[object]:
    """What may differ of something logged, the numbers of a metric for instance."""
    match logged:
        case (value, [*inside]):
            return [value, *inside]
        case dict():
            return [f"{name} {value!r}" for name, value in logged.items()]
    return [str(logged)[:_SHORT]]
