"""The repository of a project, and what the engine is told of it and must not know by itself."""

import importlib
import os
import sys
import threading
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runrecord.errors import UserError

if TYPE_CHECKING:
    from mlflow.models import Model

RECORDS = "records/"  # where stages put their sealed records, from the repository's root

RUN_NAMES = "a run's name or MLflow id, a record's folder, or REVISION:WHAT for records/WHAT there"
"""How a person names runs: what `lookup` finds."""
Better = Literal["higher", "lower"]
_LOADING = threading.RLock()


@dataclass(frozen=True)
class ModelFlavor:
    """How a model file is packed so that MLflow can serve it."""

    kind: str  # what MLflow calls the type of the model
    save: "Callable[[Path, Path, Model], None]"
    """Packs a model file into a new folder, as MLflow's `save_model` does, for that `Model`."""


@dataclass(frozen=True)
class Project:
    """A project that uses the engine. Every field has a default: none has to be told."""

    experiment: str = ""
    """The experiment in MLflow; without one, the name of the DVC repository's folder."""
    code: tuple[str, ...] = (".",)
    """Files and folders that a result can depend on besides data, from the repository's root."""
    packages: tuple[str, ...] = ("dvc", "mlflow")
    """Whose versions are part of a run's environment."""
    headline: tuple[str, ...] = ()
    """The main test metrics: trainings show them in MLflow, and reports judge by them."""
    better: Mapping[str, Better] = field(default_factory=dict)
    """Which way is better, by how a metric's name ends (before ` at `, if there is one).

    Not of losses: what they are depends on params.
    """
    seeds: tuple[str, ...] = ("seed",)
    """Params that change chance alone, in whatever block: a report measures by what they make."""
    test_metrics: tuple[str, ...] = ()
    """Metrics of test data, as patterns of `FILE:NAME`: a search should choose by others."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    """What TensorBoard says beside a metric's curve, by the metric's name."""
    spread: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By stage and metric, the standard deviation over seeds, where no more of them were run."""
    spread_of: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """By stage, params of the runs behind `spread`, and as `data set` its digest."""
    spread_runs: int = 3
    """Over how many seeds `spread` was measured, 2 or more."""
    params: tuple[str, ...] = ()
    """Params that a run's description in MLflow begins with."""
    curves: tuple[str, ...] = ()
    """Metrics by epoch that a report draws."""
    flavor: ModelFlavor | None = None
    """How models are packed for MLflow; without one, their files are artifacts."""
    checks: Mapping[str, Callable[[Path], str]] = field(default_factory=dict)
    """What `doctor` checks besides: by name, given the root; what is so, or UserError."""

    def __post_init__(self) -> None:
        for name in ("code", "packages", "headline", "seeds", "test_metrics", "params", "curves"):
            given: object = getattr(self, name)
            if not isinstance(given, tuple | list) or not all(isinstance(x, str) for x in given):
                raise UserError(f"Project({name}={given!r}): it should be a tuple of texts.")
        for name in ("better", "descriptions", "spread", "spread_of", "checks"):
            if not isinstance(given := getattr(self, name), Mapping):
                raise UserError(f"Project({name}={given!r}): it should be a dictionary.")
        if self.spread_runs < 2:
            wrong = f"Project(spread_runs={self.spread_runs})"
            raise UserError(f"{wrong}: a spread takes 2 runs or more; say how many there were.")

    def way_of(self, metric: str) -> Better | None:
        """Which way a metric is better, where `better` says so."""
        kind = metric.partition(" at ")[0]
        return next((way for ending, way in self.better.items() if kind.endswith(ending)), None)


def load_project(root: Path) -> Project:
    """The project that `[tool.runrecord]` in the pyproject.toml of a DVC root names.

    Raises:
        UserError: it names none that there is.
    """
    file = root / "pyproject.toml"
    try:
        named: object = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Project()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not TOML: {error}.") from None
    for key in ("tool", "runrecord", "project"):
        named = named.get(key) if isinstance(named, dict) else None
    if named is None:
        return Project()
    module, _, name = str(named).partition(":")
    with _LOADING:  # two threads would restore each other's path
        search, sys.path = sys.path, [*sys.path, str(root)]  # the project need not be installed
        try:
            project = getattr(importlib.import_module(module), name)
        except UserError:
            raise
        except Exception as error:  # whatever its module does wrong
            raise UserError(
                f"{file}: tool.runrecord.project is '{named}', which cannot be had "
                f"({type(error).__name__}: {error}); "
                "it should be MODULE:NAME of a runrecord.project.Project."
            ) from None
        finally:
            sys.path = search  # what is imported later is for the script to say
    if not isinstance(project, Project):
        raise UserError(f"{file}: tool.runrecord.project is '{named}', which is no Project.")
    return project


def repo_root(cwd: Path | None = None) -> Path:
    """The root of the DVC repository a person works in, also from inside DVC's temporary copies.

    DVC sets `DVC_ROOT` to it for every stage it runs, `dvc exp run --temp` and queues included.

    Raises:
        UserError: there is no DVC repository, or `DVC_ROOT` is none.
    """
    if given := os.environ.get("DVC_ROOT"):
        if not (Path(given) / ".dvc").is_dir():
            raise UserError(
                f"DVC_ROOT is '{given}', which is no DVC repository; unset it or correct it."
            )
        return Path(given).resolve()
    return checkout_root(cwd)


def checkout_root(cwd: Path | None = None) -> Path:
    """The root of the DVC repository that a process works in: of DVC's temporary copy, in one.

    Raises:
        UserError: there is none.
    """
    start = (cwd or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / ".dvc").is_dir():
            return folder
    raise UserError(f"{start}: not inside a DVC repository; run from the repository's root.")
