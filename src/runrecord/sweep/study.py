"""A study: what it searches, its trials, and what Optuna would try next."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter

from runrecord.errors import UserError
from runrecord.project import Better
from runrecord.store.files import sha256
from runrecord.sweep.space import Param, Value, parse

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler

Search = Literal["grid", "random", "tpe"]
State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]
DONE: tuple[State, ...] = ("COMPLETE", "PRUNED")

_SPACE = "space."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,29}")


@dataclass(frozen=True)
class Definition:
    """What makes a study the study it is; how many trials it has can change."""

    space: Mapping[str, str]
    """By a param's name, what is tried, as it was written."""
    file: str
    """The metrics file of the metric."""
    metric: str
    better: Better
    search: Search
    prune: bool = False

    @property
    def params(self) -> list[Param]:
        """The space, read."""
        return parse(self.space)

    def as_params(self) -> dict[str, object]:
        """As the params of a run: what is searched beneath `space`."""
        told = asdict(self)
        space = told.pop("space")
        return told | {f"{_SPACE}{name}": text for name, text in space.items()}


_DEFINITION = TypeAdapter(Definition)


def definition_from(params: Mapping[str, object]) -> Definition:
    """A study's definition from its run's params.

    Raises:
        ValueError: they are those of no study.
        UserError: its space is none.
    """
    space = {name.removeprefix(_SPACE): params[name] for name in params if name.startswith(_SPACE)}
    told = {name: value for name, value in params.items() if not name.startswith(_SPACE)}
    found = _DEFINITION.validate_python(told | {"space": space})
    parse(found.space)
    return found


@dataclass(frozen=True)
class Trial:
    """A trial, and what became of it."""

    number: int
    params: Mapping[str, Value]
    state: State = "RUNNING"
    value: float | None = None
    """Of the metric, where it is complete."""
    curve: Mapping[int, float] = field(default_factory=dict)
    """The metric by epoch, as far as it was followed."""
    runs: tuple[str, ...] = ()
    """The ids of its stages' runs."""
    error: str = ""


TRIAL = TypeAdapter(Trial)


def is_name(text: str) -> bool:
    """Can that be the name of a study, and begin those of experiments?"""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """The name of a study.

    Raises:
        UserError: it cannot begin the names of experiments.
    """
    if not is_name(name):
        raise UserError(
            f"--name {name!r}: it should have 1 to 30 letters, digits, '-' and '_', and begin with "
            "a letter or digit."
        )
    return name


def default_name(definition: Definition, stage: str, code: str) -> str:
    """The name of a study that nobody named: the same for the same command and code."""
    digest = sha256(f"{_DEFINITION.dump_json(definition)!r} {code}".encode())
    return f"{re.sub('[^A-Za-z0-9]+', '-', stage).strip('-')[:20]}-{digest[:6]}"


def experiment_of(name: str, number: int) -> str:
    """The name of a trial's experiment, which begins the names of its runs."""
    return f"{name}-{number:03}"


def best_first(trials: Iterable[Trial], better: Better) -> list[Trial]:
    """The trials by their metric, the best first; those without one come last, by number."""
    sign = -1 if better == "higher" else 1
    return sorted(
        trials,
        key=lambda one: (one.value is None, sign * (one.value or 0), one.number),
    )


class Searcher:
    """Optuna's study of the trials so far, which is in memory alone: records are what is kept."""

    def __init__(self, definition: Definition, trials: Iterable[Trial]) -> None:
        """Tell Optuna of the trials that are done."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._definition = definition
        self._space = {param.name: param.distribution for param in definition.params}
        direction = "maximize" if definition.better == "higher" else "minimize"
        pruner = optuna.pruners.SuccessiveHalvingPruner() if definition.prune else None
        self._study = optuna.create_study(direction=direction, pruner=pruner)
        self._asked: dict[int, optuna.Trial] = {}
        for trial in trials:
            if trial.state in DONE:
                self._replay(trial)

    @property
    def optuna(self) -> "optuna.Study":
        """For Optuna's own plots."""
        return self._study

    def ask(self, number: int, params: Mapping[str, Value] | None = None) -> Trial:
        """A trial to run, with those params if they are given."""
        if params is not None:
            self._study.enqueue_trial(dict(params))
        self._study.sampler = self._sampler(number)
        self._asked[number] = self._study.ask(self._space)
        return Trial(number, dict(self._asked[number].params))

    def tell(self, trial: Trial) -> None:
        """How a trial ended."""
        import optuna

        state = optuna.trial.TrialState[trial.state]
        self._study.tell(self._asked.pop(trial.number), trial.value, state)

    def is_hopeless(self, number: int, epoch: int, value: float) -> bool:
        """Note a value that a trial reached; should it stop? By the rule of ASHA.

        Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020.
        """
        trial = self._asked.get(number)
        if trial is None or epoch < 0:  # it has ended since; that is no epoch
            return False
        trial.report(value, epoch)
        return bool(trial.should_prune())

    def _sampler(self, number: int) -> "BaseSampler":
        import optuna

        if self._definition.search == "tpe":
            return optuna.samplers.TPESampler(seed=number, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=number)

    def _replay(self, trial: Trial) -> None:
        """Tell Optuna of a trial that is done, and of its epochs, by which others are given up."""
        if self.ask(trial.number, trial.params).params != trial.params:
            raise ValueError(f"trial {trial.number} has params that the study does not search")
        for epoch, value in sorted(trial.curve.items()):
            self.is_hopeless(trial.number, epoch, value)
        self.tell(trial)


def to_run(
    definition: Definition, trials: Mapping[int, Trial], count: int
) -> Iterator[tuple[int, Mapping[str, Value] | None]]:
    """The numbers of the trials that are missing of `count`, and their params where they are known.

    Those that were stopped or failed come first. Of a grid, all params are known.
    """
    grid = [*_grid(definition)] if definition.search == "grid" else None
    for number in range(count if grid is None else min(count, len(grid))):
        known = trials.get(number)
        if known is None or known.state not in DONE:
            yield number, known.params if known else grid[number] if grid else None


def _grid(definition: Definition) -> Iterator[dict[str, Value]]:
    space = definition.params
    for values in itertools.product(*(param.values for param in space)):
        yield dict(zip((param.name for param in space), values, strict=True))


def grid_size(definition: Definition) -> int:
    """How many trials a grid has.

    Raises:
        UserError: it is none.
    """
    size = 1
    for param in definition.params:
        if not param.values:
            raise UserError(
                f"{param.name}={definition.space[param.name]}: a grid takes lists; name values, or "
                "say --search random."
            )
        size *= len(param.values)
    return size
