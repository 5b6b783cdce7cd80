"""Records, replays and proves the runs of DVC pipelines: `with runrecord.start_run() as run:`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runrecord.errors import RunFailed as RunFailed
    from runrecord.errors import UserError as UserError
    from runrecord.project import ModelFlavor as ModelFlavor
    from runrecord.project import Project as Project
    from runrecord.record.events import Dataset as Dataset
    from runrecord.record.recordable import Embedding as Embedding
    from runrecord.resume.checkpoints import State as State
    from runrecord.run.run import Run as Run
    from runrecord.run.start import start_run as start_run

_HOMES = {
    "Dataset": "record.events",
    "Embedding": "record.recordable",
    "ModelFlavor": "project",
    "Project": "project",
    "Run": "run.run",
    "RunFailed": "errors",
    "State": "resume.checkpoints",
    "UserError": "errors",
    "start_run": "run.start",
}


def __getattr__(name: str) -> Any:
    """What is public, imported when it is asked for: commands need little of it."""
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"runrecord.{_HOMES[name]}"), name)
