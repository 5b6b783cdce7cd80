"""One study from its start to its end: Optuna says what to try, Ray says where."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex

from runrecord.dvc.cache import records_at
from runrecord.errors import UserError
from runrecord.record.reader import files_in
from runrecord.record.writer import place_files
from runrecord.run.process import Terminated, raise_on_signals
from runrecord.run.run import Run
from runrecord.safety.text import reason
from runrecord.store.catalog import read_runs
from runrecord.store.runs import run_dir, state_folder
from runrecord.sweep.ray_backend import Placing, Resources, ray_at_work
from runrecord.sweep.study import (
    Searcher,
    Trial,
    experiment_of,
    to_run,
)
from runrecord.sweep.study_record import Study, note, note_best
from runrecord.sweep.trial_clone import PROOF
from runrecord.sweep.worker import Outcome, fetch
from runrecord.trackers.player import Store, sync_lock


def run_study(
    root: Path,
    run: Run,
    study: Study,
    targets: tuple[str, ...],
    count: int,
    resources: Resources,
    told: Callable[[Trial], None],
) -> dict[int, Trial]:
    """Run the trials that a study lacks; all of its trials then.

    Args:
        root: of the main repository.
        run: the study's, which every outcome is put on record of.
        study: it.
        targets: the stages that make the metric.
        count: how many trials it is to have.
        resources: what they take.
        told: what became of each.

    Raises:
        UserError: Ray cannot be had.
    """
    folder = state_folder(root) / "studies" / study.name
    trials = dict(study.trials)
    with _folder(folder) as proof, ray_at_work(resources) as jobs:
        raise_on_signals(instead=True)  # Ray has handlers of its own
        place = Placing(root, study, targets, folder, proof, resources)
        searcher = Searcher(study.definition, trials.values())
        waiting = to_run(study.definition, study.trials, count)
        try:
            while True:
                while len(place.pending) < jobs and (wanted := next(waiting, None)):
                    trial = searcher.ask(*wanted)
                    note(run, trial)
                    place.start(trial)
                if not place.pending:
                    return trials
                for number, epoch, value in place.news():
                    if searcher.is_hopeless(number, epoch, value):
                        place.give_up(number)
                for outcome in place.ended():
                    trial = _bring_home(root, study, outcome)
                    trials[trial.number] = trial
                    searcher.tell(trial)
                    note(run, trial)
                    note_best(run, study.definition, trials.values())
                    told(trial)
        except (KeyboardInterrupt, SystemExit) as stop:
            place.stop()
            if isinstance(stop, KeyboardInterrupt | Terminated):
                raise
            raise Terminated(signal.SIGTERM) from None  # Ray makes a SystemExit of its own of ours


@contextmanager
def _folder(folder: Path) -> Iterator[str]:
    """The study's folder, which goes when no worker is left; what proves that one sees it."""
    folder.mkdir(parents=True, exist_ok=True)
    proof = token_hex(16)
    (folder / PROOF).write_text(proof)
    try:
        yield proof
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bring_home(root: Path, study: Study, outcome: Outcome) -> Trial:
    """Fetch a trial's experiment, and what its machine alone has on record."""
    trial = outcome.trial
    experiment = experiment_of(study.name, trial.number)
    try:
        if outcome.code:
            with tempfile.TemporaryDirectory() as folder:
                bundle = Path(folder) / "bundle"
                bundle.write_bytes(outcome.code)
                fetch(root, bundle, study.commit, experiment)
        for run_id, files in (outcome.records or {}).items():
            place_files(run_dir(root, run_id), files)
    except (UserError, OSError) as error:
        why = f"it did not come home: {reason(error)}"
        return replace(trial, state="FAIL", value=None, error=why)
    with suppress(Exception):  # `runrecord sync` says what it is
        _show(root, trial, experiment if outcome.code else "")
    return trial


def _show(root: Path, trial: Trial, experiment: str) -> None:
    """Let MLflow show the runs of a trial that it lacks, whole or in part.

    Args:
        root: of the main repository.
        trial: it.
        experiment: that which has the records, where they are not in the run store.
    """
    if not find_spec("mlflow") or os.environ.get("RUNRECORD_SINKS") == "off":
        return
    found = {name: files_in(run_dir(root, name)) for name in trial.runs}
    if experiment:
        found |= {name: files for name, files in records_at(root, experiment).items() if files}
    with sync_lock(root):
        store = Store(root)
        for run in read_runs(found.items(), lambda _label, _error: None):
            store.play(run)
