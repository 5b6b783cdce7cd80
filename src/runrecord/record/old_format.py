"""Records of format 1, which version 0.1 wrote, as events of today."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from runrecord.record.events import Event, RunStarted
from runrecord.record.schema import PATCH, read_line, read_start


def start_of_format_1(document: Mapping[str, Any]) -> tuple[RunStarted, Mapping[str, str]]:
    """How a run began, and the SHA-256 of the models that it read, by name.

    Raises:
        ValueError: it is not as format 1 has it; the message is a clause.
    """
    patch = document.get("patch")
    start = {**document, "patch": {"name": PATCH, "sha256": patch} if patch else None}
    return read_start(json.dumps(start).encode()), document.get("models", {})


def upgraded(line: bytes, models: Mapping[str, str], digest: Callable[[str], str]) -> list[Event]:
    """The events that a line tells of.

    Args:
        line: of `events.jsonl`.
        models: SHA-256 of the models that the run read.
        digest: the SHA-256 of a file of the record, by its name.

    Raises:
        ValueError: it is not as format 1 has it; the message is a clause.
    """
    try:
        old = json.loads(line)
        return [read_line(json.dumps(new).encode()) for new in _new(old, models, digest)]
    except KeyError as error:
        raise ValueError(f"{error} is missing") from None
    except (TypeError, AttributeError, RecursionError):
        raise ValueError("it is no event") from None


def _new(
    old: dict[str, Any], models: Mapping[str, str], digest: Callable[[str], str]
) -> list[dict[str, Any]]:
    def file(name: str) -> dict[str, str]:
        return {"name": name, "sha256": digest(name)}

    kind, time = old["event"], old["time"]
    if kind not in ("epoch", "model", "evaluation"):
        return [old]
    if kind == "model":
        held = {"name": old["file"], "sha256": old["sha256"]}
        filename = old["file"].rpartition("/")[2]
        return [{**old, "file": held, "filename": filename, "step": old["epoch"]}]
    images = {title: file(name) for title, name in old["images"].items()}
    logged = {"event": "logged", "time": time, "images": images}
    if kind == "epoch":
        return [{**logged, "step": old["epoch"], "metrics": old["means"], "steps": old["steps"]}]
    return [
        {**logged, "step": 0},
        *(
            {
                "event": "evaluated",
                "time": time,
                "model": model,
                "sha256": models[model],
                "metrics": metrics,
                "series": old.get("series", {}).get(model, {}),
                "config": old.get("configs", {}).get(model, {}),
                "embedding": file(old["projections"][model])
                if model in old.get("projections", {})
                else None,
            }
            for model, metrics in old["figures"].items()
        ),
    ]
