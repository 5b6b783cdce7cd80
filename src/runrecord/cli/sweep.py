"""`runrecord sweep`: a study, its table and its best trial."""

import io
import os
import re
import sys
from argparse import Namespace
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from runrecord.cli.console import drawn, note, show_table, tell
from runrecord.dvc.stages import find_stage, stages_of
from runrecord.errors import RunFailed, UserError, require
from runrecord.files import sha256
from runrecord.git.commands import git
from runrecord.git.patch import LESS, describe_code
from runrecord.project import Project, load_project, repo_root
from runrecord.provenance.environment import STUDY_TAGS
from runrecord.run.process import Terminated
from runrecord.run.run import Run
from runrecord.run.start import start_run
from runrecord.safety.text import printable
from runrecord.sweep.study import (
    Definition,
    Study,
    best_first,
    default_name,
    distribution_of,
    experiment_of,
    grid_of,
    is_list,
    open_study,
    read_space,
)
from runrecord.sweep.trials import experiment_ref, run_study, task_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_STAGE = "sweep"  # of the study's own runs
_TRIALS = 20
_WIDTH = 160  # characters of the table that is on record


def sweep(given: Namespace) -> int:
    """Run the trials that a study lacks, and print its table.

    Returns 1 if a trial failed.

    Raises:
        UserError: something that was asked for does not exist, or the study is another.
    """
    for package, name in (("optuna", "Optuna"), ("ray", "Ray")):
        require(package, name, "sweep")
    root = repo_root()
    project = load_project(root)
    definition = _definition(root, project, given)
    targets = _makers(root, definition.file)
    commit, patch = _code(root, project, targets[0])
    code = f"commit {commit[:12]}" + (f" with change {sha256(patch)[:12]}" if patch else "")
    name = given.name or default_name(definition, targets[0], code)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,29}", name):
        raise UserError(
            f"--name {name!r}: it should have 1 to 30 letters, digits, '-' and '_', and begin with "
            "a letter or digit."
        )
    metric = printable(f"{definition.file}:{definition.metric}")
    if any(fnmatchcase(metric, pattern) for pattern in project.test_metrics):
        print(
            f"warning: {metric} is a test metric: what a search chooses by it looks better than it "
            "is; keep images apart for validation, and name a metric of those.",
            file=sys.stderr,
        )
    with open_study(root, name, definition, code) as study:
        if not study.trials:
            _check_names_free(root, name, commit)
        task = task_of(root, study, commit, patch, targets)
        whole = len(grid_of(definition)) if definition.search == "grid" else _TRIALS
        count = given.trials or max(whole, len(study.trials))
        needs = {"CPU": given.cpus, "GPU": given.gpus}
        tell(
            f"{name}: {count} trials of {', '.join(definition.space)}; the best has the "
            f"{'highest' if definition.better == 'higher' else 'lowest'} {definition.metric}"
        )
        # Its own run is named as its trials are, and tagged with its name.
        os.environ |= {"DVC_EXP_NAME": name, STUDY_TAGS["study"]: name}
        with start_run(_STAGE, params=definition.as_params()) as run:
            own, noted = replace(task, run=run.id), partial(_note_end, study, run)
            try:
                run_study(study, own, count, given.jobs, needs, noted)
            except (KeyboardInterrupt, Terminated):
                tell(f"{name}: stopped; the same command resumes it.")
                raise
            written = io.StringIO()
            console = Console(width=_WIDTH, file=written, markup=False, highlight=False)
            console.print(drawn(*_table(study)))
            run.text("Trials", written.getvalue(), step=len(study.trials))
        _conclude(study)
        return int(any(trial.state.name == "FAIL" for trial in study.trials.values()))


def _definition(root: Path, project: Project, given: Namespace) -> Definition:
    file, colon, metric = given.metric.partition(":")
    if not colon:
        raise UserError(f"--metric {file}: it should be FILE:NAME, as metrics.json:loss.")
    space = read_space(root, given.space)
    better = given.better or project.way_of(metric) or "lower"
    tried = (distribution_of(name, text) for name, text in space.items())
    search = given.search or ("grid" if all(map(is_list, tried)) else "tpe")
    definition = Definition(space, file, metric, better, search, given.prune)
    if search == "grid":
        grid_of(definition)  # which refuses ranges
    return definition


def _code(root: Path, project: Project, stage: str) -> tuple[str, bytes]:
    """The commit, and what the code differs by from that."""
    if find_stage(root, _STAGE, root).stage.commands:
        raise UserError(f"dvc.yaml: has a stage '{_STAGE}', as the runs of studies; rename yours.")
    generated = [*find_stage(root, stage, root).generated, "report.html"]  # of the study, perhaps
    tags, patch, trouble = describe_code(root, project.code, generated)
    if trouble and LESS not in trouble:
        raise UserError(f"the code of the trials cannot be kept as it is: {trouble}")
    return tags["git.commit"], patch


def _makers(root: Path, file: str) -> tuple[str, ...]:
    """The stages that write a metrics file."""
    makers = tuple(name for name, one in stages_of(root).items() if file in one.outs)
    if not makers:
        raise UserError(f"{file}: no stage of dvc.yaml writes it; name a metrics file.")
    return makers


def _check_names_free(root: Path, name: str, commit: str) -> None:
    """Refuse where an experiment has the name of a trial: it would be lost."""
    pattern = experiment_ref(commit, f"{name}-*")
    for ref in git(root, "for-each-ref", "--format=%(refname)", pattern).decode().split():
        if re.fullmatch(rf".*/{name}-\d+", ref):  # else it is a trial of NAME-MORE
            raise UserError(
                f"{ref.rpartition('/')[2]} is an experiment already, and of no study here; use "
                "another --name, or remove it with 'dvc exp remove'."
            )


def _note_end(study: Study, run: Run, number: int) -> None:
    """Print how a trial ended, and put it and the best value so far on record."""
    trials = study.trials
    params = trials[number].params.items()
    values = ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in params)
    end = _end_of(trials[number])
    tell(f"{experiment_of(study.name, number)}  {values}  {end}")
    run.tag(**{f"trial.{number:03}": end})
    if complete := sum(map(_is_done, trials.values())):
        _, best = best_first(trials, study.definition.better)[0]
        run.log({study.definition.metric: best.value or 0.0}, step=complete)


def _table(study: Study) -> tuple[list[tuple[object, ...]], tuple[str, ...]]:
    """The rows of a study's table, and their heads."""
    definition, rows = study.definition, list[tuple[object, ...]]()
    for number, trial in best_first(study.trials, definition.better):
        values = (trial.params.get(param) for param in definition.space)
        end = (trial.value, "done") if _is_done(trial) else (None, _end_of(trial))
        rows.append((experiment_of(study.name, number), *values, *end))
    return rows, ("trial", *definition.space, definition.metric, "state")


def _is_done(trial: "FrozenTrial") -> bool:
    return str(trial.state.name) == "COMPLETE"


def _end_of(trial: "FrozenTrial") -> str:
    """How a trial ended, for a person."""
    match trial.state.name:
        case "COMPLETE":
            return f"{trial.value:.6g}"
        case "PRUNED":
            return f"given up at epoch {trial.last_step or 0}"
        case "FAIL":
            return f"failed: {trial.user_attrs['error']}"
        case _:
            return "stopped"


def _conclude(study: Study) -> None:
    note(study=study.name, **asdict(study.definition))
    show_table("trials", *_table(study))
    number, best = best_first(study.trials, study.definition.better)[0]
    if not _is_done(best):
        raise RunFailed(f"{study.name}: no trial has a value; their errors are in the table.")
    tell(f"The best one:   dvc exp apply {experiment_of(study.name, number)}")
    tell(f"All of them:    runrecord report {study.name}")
