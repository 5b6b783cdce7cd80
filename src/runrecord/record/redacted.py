"""An event as it may be written down: without secrets."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from runrecord.record.events import Event, Logged, ModelEvaluated, RunEnded, RunStarted
from runrecord.safety.secrets import OWN_TAGS, fit, redact_words

E = TypeVar("E", bound=Event)


def without_secrets(event: E, environment: Mapping[str, str] = os.environ) -> E:
    """An event whose texts are fit to leave; names, digests and files are as they were."""
    changes: dict[str, Any] = {}
    match event:
        case RunStarted():
            own = {name: value for name, value in event.tags.items() if name in OWN_TAGS}
            changes = {
                "params": fit(event.params, environment),
                "tags": {**fit(event.tags, environment), **own},
            }
            changes["command"] = tuple(redact_words(event.command, environment))
            if event.dataset:
                changes["dataset"] = replace(event.dataset, **fit(vars(event.dataset), environment))
        case Logged():
            changes = {"tags": fit(event.tags, environment)}
        case ModelEvaluated():
            changes = {"config": fit(event.config, environment)}
        case RunEnded():
            changes = {
                name: fit(getattr(event, name), environment) for name in ("message", "traceback")
            }
            changes["changed"] = tuple(fit([*event.changed], environment))
    changed = {name: new for name, new in changes.items() if new != getattr(event, name)}
    return replace(event, **changed) if changed else event
