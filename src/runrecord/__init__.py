"""Records, replays and proves the runs of DVC pipelines: `with runrecord.start_run() as run:`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runrecord.checkpoints import State
    from runrecord.errors import RunFailed, UserError
    from runrecord.events import Dataset
    from runrecord.project import ModelFlavor, Project
    from runrecord.record.embedding import Embedding
    from runrecord.run import Run
    from runrecord.start import start_run

__all__ = [
    "Dataset",
    "Embedding",
    "ModelFlavor",
    "Project",
    "Run",
    "RunFailed",
    "State",
    "UserError",
    "start_run",
]

_HOMES = {
    "Dataset": "events",
    "Embedding": "record.embedding",
    "ModelFlavor": "project",
    "Project": "project",
    "Run": "run",
    "RunFailed": "errors",
    "State": "checkpoints",
    "UserError": "errors",
    "start_run": "start",
}


def __getattr__(name: str) -> Any:
    """What is public, imported when it is asked for: commands need little of it."""
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"runrecord.{_HOMES[name]}"), name)
