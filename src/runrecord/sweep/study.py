"""A study: the values it tries, and its trials in Optuna's own storage, a journal in `.runrecord/`.

Values are written as a list, `vae.latent_dim=2,10,50`, or a range, `vae.lr=0.0003..0.003:log`.
"""

import itertools
import math
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from runrecord.dvc.stages import is_inside, read_values, value_of, write_values
from runrecord.errors import UserError
from runrecord.files import sha256
from runrecord.project import Better
from runrecord.safety.text import printable, reason
from runrecord.store.runs import state_folder

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Value = bool | int | float | str | None

_RANGE = re.compile(r"([^'\",]+?)\.\.([^'\",]+?)(:log)?")  # what is quoted is a value
_FORMS = "it should be a list (2,10,50) or a range (1..9, 0.0003..0.003:log)"


def read_space(root: Path, given: Iterable[str]) -> dict[str, str]:
    """What is tried of each param, by its name, of texts `PARAM=VALUES`.

    A range is of floats where the project's files have a float.

    Raises:
        UserError: one is not a list or a range, or its param is not in the project's files.
    """
    from optuna.distributions import IntDistribution

    found: dict[str, str] = {}
    for one in given:
        name, equals, text = one.partition("=")
        file, keys = _place(name)
        if not equals or not all(keys):
            raise UserError(f"'{printable(one)}': it should be PARAM=VALUES, as vae.lr=0.001,0.01.")
        if name in found:
            raise UserError(f"{printable(name)} is given twice; name all of its values at once.")
        if not is_inside(file):
            raise UserError(f"{printable(f'{one}: {file}')} is outside the repository.")
        tried, now = distribution_of(name, text), _value_in(root, file, keys)
        if isinstance(tried, IntDistribution) and isinstance(now, float):
            text = f"{tried.low}.0..{tried.high}.0" + ":log" * tried.log
        found[name] = text
    return found


def distribution_of(name: str, text: str) -> "BaseDistribution":
    """What is tried of a param, for Optuna.

    Raises:
        UserError: it is not a list or a range.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    where, found, ends = printable(f"{name}={text}"), _RANGE.fullmatch(text), list[Any]()
    try:
        values = value_of(f"[{text}]")
        ends += map(value_of, found.group(1, 2)) if found else []
    except ValueError:
        values = []
    numbers = {type(end) in (int, float) for end in ends}
    plain = all(isinstance(one, bool | int | float | str | None) for one in values)
    if not values or not plain or len(numbers) == 2:
        raise UserError(f"{where}: {_FORMS}.")
    if True not in numbers:
        if len({(type(one), one) for one in values}) < len(values):
            raise UserError(f"{where}: names a value twice.")
        return CategoricalDistribution(values)
    if not all(map(math.isfinite, ends)):
        raise UserError(f"{where}: a range is of finite numbers.")
    kind = FloatDistribution if float in map(type, ends) else IntDistribution
    try:
        return kind(*ends, log=text.endswith(":log"))
    except ValueError as error:
        raise UserError(f"{where}: {reason(error)}.") from None


def is_list(tried: "BaseDistribution") -> bool:
    """Else it is a range."""
    return type(tried).__name__ == "CategoricalDistribution"


def _place(param: str) -> tuple[str, list[str]]:
    """Its file, before a colon if it is another than params.yaml, and its keys there."""
    file, _, dotted = param.rpartition(":")
    return file or "params.yaml", dotted.split(".")


def _value_in(root: Path, file: str, keys: list[str]) -> object:
    found = read_values(root / file)
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            raise UserError(printable(f"{file}: has no '{'.'.join(keys)}'."))
        found = found[key]
    if isinstance(found, dict):
        there = ", ".join(map(str, found))
        raise UserError(printable(f"{file}: '{keys[-1]}' is a block; name one of {there} in it."))
    return found


def set_params(root: Path, values: Mapping[str, Value]) -> None:
    """Set params in their files."""
    for name, value in values.items():
        file, keys = _place(name)
        write_values(root / file, {tuple(keys): value})


@dataclass(frozen=True)
class Definition:
    """What makes a study the study it is; how many trials it has can change."""

    space: Mapping[str, str]
    """By a param's name, what is tried, as it was written."""
    file: str
    """The metrics file of the metric."""
    metric: str
    better: Better
    search: str
    """`grid`, `random` or `tpe`."""
    prune: bool = False

    def distributions(self) -> "dict[str, BaseDistribution]":
        """The space, for Optuna."""
        return {name: distribution_of(name, text) for name, text in self.space.items()}

    def as_params(self) -> dict[str, object]:
        """As the params of a run: what is searched beneath `space`."""
        params = asdict(self)
        space = params.pop("space")
        return params | {f"space.{name}": text for name, text in space.items()}


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: Literal["COMPLETE", "PRUNED", "FAIL"]
    value: float | None = None
    """Of the metric, if it is complete."""
    error: str = ""


def default_name(definition: Definition, stage: str, code: str) -> str:
    """The name of a study that nobody named: the same for the same command and code."""
    digest = sha256(f"{definition.as_params()} {code}".encode())
    return f"{re.sub('[^A-Za-z0-9]+', '-', stage).strip('-')[:20]}-{digest[:6]}"


def experiment_of(name: str, number: int) -> str:
    """The name of a trial's experiment, which begins the names of its runs."""
    return f"{name}-{number:03}"


def grid_of(definition: Definition) -> list[dict[str, Value]]:
    """All combinations of the values.

    Raises:
        UserError: a param has a range.
    """
    tried = definition.distributions()
    for name in tried:
        if not is_list(tried[name]):
            what = f"{name}={definition.space[name]}"
            raise UserError(f"{what}: a grid takes lists; name values, or use --search random.")
    combinations = itertools.product(*(one.choices for one in tried.values()))
    return [dict(zip(tried, values, strict=True)) for values in combinations]


def best_first(
    trials: "Mapping[int, FrozenTrial]", better: Better
) -> "list[tuple[int, FrozenTrial]]":
    """Trials with their numbers: the complete ones, the best first, then the others by number."""
    complete = [item for item in trials.items() if item[1].state.name == "COMPLETE"]
    others = [item for item in trials.items() if item[1].state.name != "COMPLETE"]
    complete.sort(key=lambda item: item[1].value or 0.0, reverse=better == "higher")
    return complete + others


class Study:
    """A study that this process alone works on.

    Optuna numbers attempts. The study's own numbers are those of trials: one that failed is tried
    again under its number, an attribute of the attempts.
    """

    def __init__(self, folder: Path, definition: Definition, study: "optuna.Study") -> None:
        self.folder, self.name = folder, folder.name
        self.definition, self.optuna = definition, study
        self._space = definition.distributions()
        self._running: dict[int, optuna.Trial] = {}

    @property
    def trials(self) -> "dict[int, FrozenTrial]":
        """The last attempt at each trial, by the trial's number."""
        attempts = self.optuna.get_trials(deepcopy=False)
        found = {one.user_attrs["number"]: one for one in attempts if "number" in one.user_attrs}
        return dict(sorted(found.items()))

    def missing(self, count: int) -> Iterator[tuple[int, Mapping[str, Value] | None]]:
        """Which of `count` trials did not run, were stopped or failed; their params if known."""
        known = self.trials
        grid = grid_of(self.definition) if self.definition.search == "grid" else [None] * count
        for number, params in enumerate(grid[:count]):
            if number not in known:
                yield number, params
            elif known[number].state.name not in ("COMPLETE", "PRUNED"):
                yield number, known[number].params

    def ask(self, number: int, params: Mapping[str, Value] | None = None) -> dict[str, Value]:
        """Begin a trial, or run one again that was stopped or failed; its params.

        What is asked depends on the number, and on which trials have ended with what.
        """
        import optuna
        from optuna.samplers import RandomSampler, TPESampler
        from optuna.trial import TrialState, create_trial

        last = self.trials.get(number)
        if params is None:
            tpe = self.definition.search == "tpe"
            self.optuna.sampler = (
                TPESampler(seed=number, constant_liar=True) if tpe else RandomSampler(number)
            )
            trial = self.optuna.ask(self._space)
            trial.set_user_attr("number", number)
        else:
            if last is None or last.state.is_finished():  # else it was stopped
                attempt = create_trial(
                    state=TrialState.RUNNING,
                    params=dict(params),
                    distributions=self._space,
                    user_attrs={"number": number},
                )
                self.optuna.add_trial(attempt)
                last = self.trials[number]
            trial = optuna.Trial(self.optuna, last._trial_id)
        self._running[number] = trial
        return dict(trial.params)

    def is_hopeless(self, number: int, epoch: int, value: float) -> bool:
        """Note a value that a trial reached; should it stop? By the rule of ASHA.

        Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020.
        """
        trial = self._running[number]
        with warnings.catch_warnings():  # a trial that is run again reaches the same epochs
            warnings.simplefilter("ignore")
            trial.report(value, epoch)
        return bool(trial.should_prune())

    def tell(self, number: int, outcome: Outcome) -> None:
        """End a trial."""
        from optuna.trial import TrialState

        trial = self._running.pop(number)
        trial.set_user_attr("error", outcome.error)
        self.optuna.tell(trial, outcome.value, TrialState[outcome.state])


@contextmanager
def open_study(root: Path, name: str, definition: Definition, code: str) -> Iterator[Study]:
    """The study of that name, begun if there is none; what its workers leave goes at the end.

    `code` tells the code of its trials.

    Raises:
        UserError: it is another study, or its trials ran other code; another process works on it.
    """
    folder = state_folder(root) / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{name}: another process works on this study; wait for it, or use another --name."
        ) from None
    try:
        study = _loaded(folder, definition)
        wanted = {"code": code, **definition.as_params()}
        known = study.user_attrs.get("definition")
        if known is None:
            study.set_user_attr("definition", wanted)
        elif known != wanted:
            keys = [key for key in known | wanted if known.get(key) != wanted.get(key)]
            what = "; ".join(f"{key} was {known.get(key)}, is {wanted.get(key)}" for key in keys)
            raise UserError(
                f"--name {name}: that study is another: {printable(what)}; restore that, or use "
                "another --name."
            )
        yield Study(folder, definition, study)
    finally:
        shutil.rmtree(folder / "workers", ignore_errors=True)
        lock.release()


def _loaded(folder: Path, definition: Definition) -> "optuna.Study":
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = folder / "journal.jsonl"
    journal.touch()
    with journal.open("r+b") as file:  # Optuna would append to a line that was cut off
        file.truncate(file.read().rfind(b"\n") + 1)
    Path(f"{journal}.lock").unlink(missing_ok=True)  # of a process that was killed
    backend = JournalFileBackend(str(journal), JournalFileOpenLock(str(journal)))
    try:
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=folder.name,
            direction="maximize" if definition.better == "higher" else "minimize",
            pruner=optuna.pruners.SuccessiveHalvingPruner() if definition.prune else None,
            load_if_exists=True,
        )
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"{journal}: is damaged ({reason(error)}); use another --name: the study's finished "
            "trials stay, as DVC experiments."
        ) from None
