"""`runrecord sweep`: a study, its table, its best trial and its plots."""

import io
import sys
from argparse import Namespace
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console
from rich.table import Table

from runrecord.cli.console import page, say
from runrecord.dvc.stages import find_stage, stages_of
from runrecord.errors import RunFailed, UserError
from runrecord.extras import require
from runrecord.project import Project, load_project
from runrecord.provenance.git import git
from runrecord.provenance.patch import LESS, describe_code
from runrecord.report.study_plots import log_plots
from runrecord.run.process import Terminated
from runrecord.safety.text import printable
from runrecord.store.files import sha256
from runrecord.store.paths import repo_root
from runrecord.store.runs import was_run_here
from runrecord.sweep.driver import run_study
from runrecord.sweep.ray_backend import Resources
from runrecord.sweep.space import as_there, split
from runrecord.sweep.study import (
    Definition,
    Search,
    Trial,
    best_first,
    check_name,
    default_name,
    experiment_of,
    grid_size,
)
from runrecord.sweep.study_record import Study, find_study, recorded
from runrecord.sweep.worker import experiment_ref
from runrecord.verify.compare import PARAM, differences
from runrecord.verify.facts import values_of
from runrecord.verify.verdict import value_text

_TRIALS = 20
_WIDTH = 160  # characters of the table that is on record
_NOT_KNOWN = "say what to search: PARAM=VALUES, and --metric FILE:NAME"


def sweep(given: Namespace) -> int:
    """Run the trials that a study lacks, and print its table.

    Returns 1 if a trial failed.

    Raises:
        UserError: something that was asked for is not there.
    """
    for package, name in (("optuna", "Optuna"), ("ray", "Ray")):
        require(package, name, "sweep")
    root = repo_root()
    project = load_project(root)
    study, tags = _study(root, project, given)
    definition = study.definition
    whole = grid_size(definition) if definition.search == "grid" else _TRIALS
    count = given.trials or max(whole, len(study.trials))
    targets = _makers(root, definition.file)
    label = printable(f"{definition.file}:{definition.metric}")
    if any(fnmatchcase(label, pattern) for pattern in project.test_metrics):
        print(
            f"warning: {label} is a test metric: what a search chooses by it looks better than it "
            "is; keep images apart for validation, and name a metric of those.",
            file=sys.stderr,
        )
    say(
        f"{study.name}: {count} trials of {', '.join(definition.space)}; the best has the "
        f"{'highest' if definition.better == 'higher' else 'lowest'} {definition.metric}"
    )

    def told(trial: Trial) -> None:
        values = ", ".join(
            f"{name.rpartition('.')[2]}={value}" for name, value in trial.params.items()
        )
        what = f"{trial.value:.6g}" if trial.value is not None else _ended(trial)
        say(f"{experiment_of(study.name, trial.number)}  {values}  {what}")

    resources = Resources(given.jobs, given.cpus, given.gpus)
    try:
        with recorded(root, study, tags) as (run, study):
            trials = run_study(root, run, study, targets, count, resources, told)
            found = replace(study, trials=trials)
            log_plots(run, found)
            written = io.StringIO()
            Console(width=_WIDTH, file=written, markup=False, highlight=False).print(_table(found))
            run.text("Trials", written.getvalue(), step=len(trials))
    except (KeyboardInterrupt, Terminated):
        say(f"{study.name}: stopped; the same command goes on with it.")
        raise
    _conclude(found)
    return int(any(trial.state == "FAIL" for trial in trials.values()))


def _study(root: Path, project: Project, given: Namespace) -> tuple[Study, dict[str, str]]:
    """The study that is asked for, as far as there is one; tags of a new one's run."""
    if not given.space:
        if not given.name:
            raise UserError(f"{_NOT_KNOWN}; or name a study that there is: --name STUDY.")
        if (study := find_study(root, check_name(given.name))) is None:
            raise UserError(f"--name {given.name}: no record tells of such a study; {_NOT_KNOWN}.")
        return _trusted(root, study), {}
    definition = _definition(root, project, given)
    stage = _makers(root, definition.file)[0]
    tags, patch, trouble = describe_code(
        root, project.code, find_stage(root, stage, root).generated
    )
    if trouble and LESS not in trouble:
        raise UserError(f"the code of the trials cannot be kept as it is: {trouble}")
    code = f"{tags['git.commit']} {sha256(patch)}"
    name = check_name(given.name) if given.name else default_name(definition, stage, code)
    study = find_study(root, name)
    if study is None:
        _check_names_free(root, name, tags["git.commit"])
        kept = {key: text for key, text in tags.items() if text and key != "git.commit"}
        return Study(name, "", definition, tags["git.commit"], patch, {}), kept
    known, wanted = (values_of(PARAM, one.as_params()) for one in (study.definition, definition))
    if other := [*differences(known, wanted)]:
        what = "; ".join(
            f"{one.place.title} is {value_text(one, False)} there, and {value_text(one, True)} here"
            for one in other
        )
        raise UserError(
            f"--name {name}: that study is another: {printable(what)}; use another name."
        )
    if (study.commit, study.patch) != (tags["git.commit"], patch):
        say(
            f"note: {name} goes on with the code that it began with, of {study.commit[:10]}; for "
            "today's, give another --name."
        )
    return _trusted(root, study), {}


def _makers(root: Path, file: str) -> tuple[str, ...]:
    """The stages that write a metrics file.

    Raises:
        UserError: none does.
    """
    makers = tuple(name for name, one in stages_of(root).items() if file in one.outs)
    if not makers:
        raise UserError(f"{file}: no stage of dvc.yaml writes it; name a metrics file.")
    return makers


def _check_names_free(root: Path, name: str, commit: str) -> None:
    """No experiment has the name of a trial.

    Raises:
        UserError: one has: it would be lost.
    """
    ref = experiment_ref(commit, name)
    if there := git(root, "for-each-ref", "--format=%(refname)", f"{ref}-*").decode().split():
        raise UserError(
            f"{printable(there[0].rpartition('/')[2])} is an experiment already, and of no study "
            "that there is; give another --name, or remove it with 'dvc exp remove'."
        )


def _trusted(root: Path, study: Study) -> Study:
    """A study whose code may be run.

    Raises:
        UserError: it has a change that was made elsewhere.
    """
    if study.patch and not was_run_here(root, study.patch):
        raise UserError(
            f"{study.name}: its uncommitted change was made elsewhere, and would be run; look at "
            "it with 'runrecord verify' of one of its trials, which asks."
        )
    return study


def _definition(root: Path, project: Project, given: Namespace) -> Definition:
    if not given.metric or ":" not in given.metric:
        raise UserError(
            f"--metric {given.metric or ''}: it should be FILE:NAME, as metrics.json:loss."
        )
    file, _, metric = given.metric.partition(":")
    space = as_there(root, split(given.space))
    definition = Definition(
        space,
        file,
        metric,
        given.better or project.way_of(metric) or "lower",
        "random",
        given.prune,
    )
    lists = all(param.values for param in definition.params)
    search: Search = given.search or ("grid" if lists else "tpe")
    definition = replace(definition, search=search)
    if search == "grid":
        grid_size(definition)
    return definition


def _table(study: Study) -> Table:
    table = Table(
        "trial", *map(printable, study.definition.space), study.definition.metric, "state"
    )
    for trial in best_first(study.trials.values(), study.definition.better):
        value = "" if trial.value is None else f"{trial.value:.6g}"
        values = (str(trial.params.get(name, "")) for name in study.definition.space)
        row = (experiment_of(study.name, trial.number), *values, value, _ended(trial))
        table.add_row(*map(printable, row))
    return table


def _ended(trial: Trial) -> str:
    """How a trial ended, for a person."""
    match trial.state:
        case "COMPLETE":
            return "done"
        case "PRUNED":
            return f"given up at epoch {max(trial.curve, default=0)}"
        case "FAIL":
            return f"failed: {trial.error}"
        case _:
            return "stopped"


def _conclude(study: Study) -> None:
    page().print(_table(study))
    best = best_first(study.trials.values(), study.definition.better)[0]
    if best.value is None:
        raise RunFailed(f"{study.name}: no trial has a value; their errors are in the table.")
    say(f"The best one:   dvc exp apply {experiment_of(study.name, best.number)}")
    say(f"All, in plots:  runrecord report {study.name}")
