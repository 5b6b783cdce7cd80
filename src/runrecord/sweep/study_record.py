"""A study on record: as a run of its own, and as the records of its trials' runs tell of it."""

import json
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from runrecord.dvc.cache import records_at, restore
from runrecord.dvc.params import value_in
from runrecord.errors import UserError
from runrecord.provenance.git import git
from runrecord.record.events import File, Resumed, RunEnded, RunStarted, Status
from runrecord.record.reader import Record, files_in
from runrecord.record.schema import PATCH, START, Files, RecordRefused, read_start
from runrecord.record.view import RunView, view
from runrecord.record.writer import RecordWriter
from runrecord.resume.checkpoints import Checkpoints
from runrecord.run.process import Terminated, end_waiting_on_signals
from runrecord.run.run import Run, now
from runrecord.run.start import KILLED_PATIENCE, PATIENCE, PRUNED
from runrecord.run.tracker import Tracker
from runrecord.store.files import sha256
from runrecord.store.runs import STORE, claim_run, host, remember_patch, state_folder
from runrecord.sweep.study import (
    TRIAL,
    Definition,
    Searcher,
    Trial,
    best_first,
    definition_from,
    is_name,
)

STAGE = "sweep"
"""What the record of a study has as its stage."""
STUDY, RUN, OF_TRIAL = "study", "study.run", "study.trial"
"""Tags of a trial's runs: the study's name, its run, the trial as JSON."""
_BEGUN = TypeAdapter(tuple[int, str])
_TRIAL = "trial."
"""Before the number of a trial: a tag of the study's run, JSON."""


@dataclass(frozen=True)
class Study:
    """A study, as far as records tell of it."""

    name: str
    id: str
    """Of its run; empty if it has none yet."""
    definition: Definition
    commit: str
    patch: bytes
    """The code of its trials: what they differ by from the commit."""
    trials: Mapping[int, Trial]
    time: int = 0
    host: str = ""
    """When its run began, and where; 0 if it has none yet."""


def find_study(root: Path, name: str) -> Study | None:
    """The study of that name, by its own record, else by those of its trials' runs."""
    found = study_record(root, name)
    return _told_by_itself(name, found) if found else _told_by_trials(root, name)


def study_record(root: Path, name: str) -> Record | None:
    """The newest record of the study of that name."""
    if not is_name(name):
        return None
    for record in reversed(_records(root, f"{name}-{STAGE}")):
        if record.start.stage == STAGE and record.start.tags.get(STUDY) == name:
            return record
    return None


def trial_folders(root: Path, experiment: str) -> list[Path]:
    """The folders in the run store of the runs of a trial, the oldest first: none is read whole."""
    found = []
    for folder in _folders(root, experiment):
        with suppress(ValueError, OSError):  # it is being made, or is none of ours
            start = read_start((folder / START).read_bytes())
            if OF_TRIAL in start.tags and start.tags.get("dvc.experiment") == experiment:
                found.append((start.time, folder))
    return [folder for _, folder in sorted(found)]


@contextmanager
def recorded(root: Path, study: Study, tags: Mapping[str, str]) -> Iterator[tuple[Run, Study]]:
    """The study's run, which goes on if there is one, and the study with it; KILLED if stopped.

    Raises:
        UserError: another process works on it.
    """
    title = f"{study.name}-{STAGE}"
    with _alone(root, study), claim_run(root, title, title, study.id or None) as (folder, _):
        past = Record(files_in(folder)) if (folder / START).is_file() else None
        if past and (past.start.stage != STAGE or past.start.tags.get(STUDY) != study.name):
            raise UserError(f"{study.name}: {folder.name} is not its run, as its trials say.")
        writer = RecordWriter(folder, past.size if past else 0)
        tracker = Tracker(writer, past.length if past else 0)
        begun = past.start if past else _start(folder.name, study, tags)
        run = Run(begun, tracker, Checkpoints(root, {}))
        if past is None:
            tracker.log(begun, {PATCH: study.patch} if study.patch else {})
            remember_patch(root, study.patch)
            for trial in study.trials.values():  # of a study whose own record is gone
                note(run, trial)
            note_best(run, study.definition, study.trials.values())
        else:
            tracker.log(Resumed(now(), len(study.trials)))
        tracker.follow()
        try:
            yield run, replace(study, id=run.id, time=begun.time, host=begun.host)
        except (KeyboardInterrupt, Terminated):
            _end(tracker, "KILLED", KILLED_PATIENCE)
            raise
        except BaseException as error:
            _end(tracker, "FAILED", PATIENCE, f"{type(error).__name__}: {error}")
            raise
        _end(tracker, "FINISHED", PATIENCE)


@contextmanager
def _alone(root: Path, study: Study) -> Iterator[None]:
    """Be the only process that works on a study.

    Raises:
        UserError: another one does, or has since it was looked for.
    """
    lock = FileLock(state_folder(root) / f"study-{study.name}.lock", fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{study.name}: another process works on this study; wait for it."
        ) from None
    try:
        if not study.id and study_record(root, study.name):
            raise UserError(f"{study.name}: another process worked on it just now; try it again.")
        yield
    finally:
        lock.release()


def note(run: Run, trial: Trial) -> None:
    """Put on record what is known of a trial."""
    told = TRIAL.dump_json(trial, exclude_defaults=True).decode()
    run.tag(**{f"{_TRIAL}{trial.number:03}": told})


def note_best(run: Run, definition: Definition, trials: Iterable[Trial]) -> None:
    """Put on record the best value so far: the study's own, by how many trials have one."""
    ranked = best_first(trials, definition.better)
    if values := [trial.value for trial in ranked if trial.value is not None]:
        run.log({definition.metric: values[0]}, step=len(values))


def tags_of_trial(study: Study, trial: Trial) -> dict[str, str]:
    """What a trial's runs are tagged with: enough to tell the study by."""
    told = {
        "number": trial.number,
        "params": dict(trial.params),
        "definition": study.definition.as_params(),
        "begun": [study.time, study.host],
    }
    return {STUDY: study.name, RUN: study.id, OF_TRIAL: json.dumps(told)}


def curve_of(run: RunView, metric: str) -> dict[int, float]:
    """A metric of a run by epoch, where it is a number."""
    points = sorted(run.series.get(metric, {}).items())
    return {step: value for step, (value, _) in points if math.isfinite(value)}


def _records(root: Path, title: str) -> list[Record]:
    """Those in the run store whose names begin so, the oldest first."""
    found = []
    for folder in _folders(root, title):
        with suppress(RecordRefused):
            found.append(Record(files_in(folder)))
    return sorted(found, key=lambda record: record.start.time)


def _folders(root: Path, title: str) -> Iterator[Path]:
    for start in root.glob(f"{STORE}/{title}-*/{START}"):
        yield start.parent


def _start(run_id: str, study: Study, tags: Mapping[str, str]) -> RunStarted:
    return RunStarted(
        id=run_id,
        stage=STAGE,
        time=study.time or now(),
        host=study.host or host(),
        params=study.definition.as_params(),
        tags={**tags, STUDY: study.name, "git.commit": study.commit},
        patch=File(PATCH, sha256(study.patch)) if study.patch else None,
        command=("runrecord", "sweep", "--name", study.name),
    )


def _end(tracker: Tracker, status: Status, patience: float, message: str = "") -> None:
    end_waiting_on_signals(tracker.stop_waiting)
    tracker.log(RunEnded(now(), status, message=message))
    tracker.close(patience)


def _told_by_itself(name: str, record: Record) -> Study:
    try:
        definition = definition_from(record.start.params)
        tags = view(record).tags
        trials = [TRIAL.validate_json(text) for tag, text in tags.items() if tag.startswith(_TRIAL)]
        Searcher(definition, trials)
    except (ValueError, RecordRefused) as error:
        raise UserError(
            f"{record.start.id}: its record cannot be used ({str(error).splitlines()[0]}); remove "
            "it, and the study is made again from its trials' records."
        ) from None
    start, patch, told = record.start, record.patch(), {trial.number: trial for trial in trials}
    commit = start.tags.get("git.commit", "")
    return Study(name, start.id, definition, commit, patch, told, start.time, start.host)


def _told_by_trials(root: Path, name: str) -> Study | None:
    """The study that its trials' records tell of, in the run store and at experiments."""
    runs: dict[str, Record] = {}
    for record in (*_records(root, f"{name}-[0-9]*"), *_of_experiments(root, name)):
        if record.start.tags.get(STUDY) == name and OF_TRIAL in record.start.tags:
            runs.setdefault(record.start.id, record)
    study: Study | None = None
    trials: dict[int, Trial] = {}
    for record in sorted(runs.values(), key=lambda record: record.start.time):
        try:
            told = json.loads(record.start.tags[OF_TRIAL])
            definition = definition_from(told["definition"])
            time, host = _BEGUN.validate_python(told["begun"])
            trial = TRIAL.validate_python({"number": told["number"], "params": told["params"]})
            if Searcher(definition, []).ask(trial.number, trial.params).params != trial.params:
                continue  # it is none of that space
        except (ValueError, KeyError, TypeError):
            continue  # it says less of a study than one does
        tags = record.start.tags
        study = study or Study(
            name,
            tags.get(RUN, ""),
            definition,
            tags.get("git.commit", ""),
            record.patch(),
            trials,
            time,
            host,
        )
        known = trials.get(trial.number, trial)
        trials[known.number] = _with_outcome(root, known, record, definition)
    return study


def _of_experiments(root: Path, name: str) -> Iterator[Record]:
    listed = git(root, "for-each-ref", "--format=%(refname)", "refs/exps/").decode().splitlines()
    for one in dict.fromkeys(line.rpartition("/")[2] for line in listed):
        if re.fullmatch(rf"{re.escape(name)}-\d+", one):
            with suppress(UserError):
                yield from _readable(records_at(root, one).values())


def _readable(found: Iterable[Files | None]) -> Iterator[Record]:
    for files in filter(None, found):
        with suppress(RecordRefused):
            yield Record(files)


def _with_outcome(root: Path, trial: Trial, record: Record, definition: Definition) -> Trial:
    """What one more of its runs tells of a trial."""
    seen, end = view(record), record.end
    trial = replace(
        trial,
        runs=(*trial.runs, record.start.id),
        curve={**trial.curve, **(curve_of(seen, definition.metric) if definition.prune else {})},
    )
    if PRUNED in seen.tags:
        return replace(trial, state="PRUNED")
    if end is not None and end.status == "FAILED":
        return replace(trial, state="FAIL", error=end.message)
    digest = end.outs.get(definition.file) if end else None
    with tempfile.TemporaryDirectory() as folder:
        target, commit = Path(folder) / "metric", record.start.tags.get("git.commit", "")
        wanted = {definition.file: digest} if digest else {}
        restore(root, target, wanted, wanted, Path(folder) / "clone", commit)
        if (file := target / definition.file).exists():
            value = value_in(file, definition.metric)
            return replace(trial, state="COMPLETE", value=value, error="")
    return trial
