"""How a run begins and ends: with where it comes from, and with its true status."""

import json
import os
import platform
import sys
import traceback
from asyncio import CancelledError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from runrecord.dvc.stages import files_in_folders
from runrecord.errors import RunFailed, UserError
from runrecord.files import sha256
from runrecord.git.commands import unsteered_process
from runrecord.git.patch import LESS
from runrecord.project import checkout_root, load_project, repo_root
from runrecord.provenance.environment import (
    Origin,
    changed_inputs,
    collect_origin,
    hash_outs,
    record_of,
)
from runrecord.record.events import (
    PATCH,
    Contents,
    Dataset,
    File,
    RunEnded,
    RunStarted,
    Status,
    made,
    now,
)
from runrecord.record.reader import Record, files_in
from runrecord.record.writer import RecordWriter, file_for
from runrecord.resume.checkpoints import PRUNED as PRUNED
from runrecord.resume.checkpoints import Checkpoints
from runrecord.resume.identity import identity_of, without_length
from runrecord.run.machine import sampled
from runrecord.run.process import (
    Terminated,
    end_waiting_on_signals,
    is_console_gone,
    one_sentence,
    own_signals,
)
from runrecord.run.run import Run
from runrecord.run.tracker import Tracker
from runrecord.safety.text import printable, reason, say
from runrecord.store.runs import (
    claim_run,
    held,
    number_here,
    remember_patch,
    state_folder,
)

_LONGEST_WHY = 500  # characters
PATIENCE = 60.0  # seconds that a finished run waits for its sinks
KILLED_PATIENCE = 4.0  # seconds that one which was told to stop waits for them
# The block was left behind; a task was cancelled, which is how asyncio passes on a signal, too.
_STOPPED = (KeyboardInterrupt, Terminated, GeneratorExit, CancelledError)
WHY = "RUNRECORD_WHY"
"""The variable that names a file: who ends a trial of a study writes there why, for `PRUNED`."""


@contextmanager
def start_run(
    stage: str | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    dataset: Dataset | None = None,
    tags: Mapping[str, object] | None = None,
    device: str = "",
    length: str | None = None,
) -> Iterator[Run]:
    """A run in the run store, MLflow and TensorBoard: FAILED on an exception, KILLED on a signal.

    What it reads and writes is what DVC says of its stage. One that ends well leaves its sealed
    record among the stage's outs, where they name `records/...`. From there on its result is kept:
    a signal to end only ends the waiting for the sinks. So does one that leaves the block by
    `sys.exit()` without a status, or with 0. Of several processes that are ranks of one job, rank 0
    alone records.

    Args:
        stage: as dvc.yaml names it; without one, the stage that DVC runs.
        params: what the run is shown with instead of the stage's params.
        dataset: the data it reads, as MLflow shows it.
        tags: what else there is to say of it, of the hardware for instance.
        device: the kind of device that results depend on; checkpoints of another are left alone.
        length: the param, in whatever block, that only says for how many epochs the run goes on,
            and that nothing in them depends on. A run with a larger one goes on from where a
            smaller one ended.

    Raises:
        UserError: before any work: no stage is given, or DVC cannot read its files.
        RunFailed: what the stage reads was changed while it ran.
    """
    with one_sentence(), own_signals():
        stage = stage or os.environ.get("DVC_STAGE")
        if not stage:
            raise UserError(
                "DVC_STAGE is not set: this is not run by DVC; use 'dvc repro', or name the stage "
                "in start_run()"
            )
        root, checkout, cwd = repo_root(), checkout_root(), Path.cwd()
        project = load_project(checkout)
        with unsteered_process():
            origin = collect_origin(checkout, stage, cwd, project, tags or {})
        if origin.trouble:
            lost = "" if LESS in origin.trouble else " It cannot be rebuilt later."
            say(f"warning: {printable(origin.trouble)}{lost}")
        shown = origin.inputs.params if params is None else params
        rank, name, program = rank_in(os.environ), origin.inputs.stage.name, Path(sys.argv[0])
        words = [program.name if program.is_absolute() else sys.argv[0], *sys.argv[1:]]
        begun = made(
            RunStarted,
            id="unrecorded",
            stage=name,
            time=now(),
            host=platform.node(),
            params=shown,
            tags=origin.tags,
            dataset=dataset,
            deps=origin.inputs.deps,
            patch=File(PATCH, sha256(origin.patch)) if origin.patch else None,
            command=tuple(map(printable, words)),
        )

        def checkpoints_of(number: int) -> Checkpoints:
            try:
                data = {"data": {one.name: one.digest}} if (one := begun.dataset) else {}
                identity = {**identity_of(origin, shown, device, project.packages, number), **data}
                json.dumps(identity)
                known = (identity, {}) if length is None else without_length(identity, length)
            except (TypeError, ValueError, RecursionError) as error:  # one is no value of JSON's
                raise UserError(f"cannot record this run: params: {reason(error)}.") from None
            return Checkpoints(root, *known, follows=bool(rank))

        # A cell of a notebook may be run again, which is no further run of its stage.
        again = "DVC_STAGE" not in os.environ and not hasattr(sys.modules["__main__"], "__file__")
        expected = 1 if again else number_here(root, name, follows=bool(rank))
        checkpoints = checkpoints_of(expected)
        stopped = checkpoints.latest()
        if rank:
            say(
                f"note: rank {rank} of several processes records nothing, rank 0 does; set RANK=0 "
                "for a process that is to have a run of its own."
            )
            begun = replace(begun, id=stopped.saved.run_id) if stopped else begun
            yield Run(begun, Tracker(None), checkpoints, stopped)
            return
        wanted = stopped.saved.run_id if stopped else None
        with claim_run(root, origin.title, name, wanted) as (folder, number):
            if stopped and folder.name != stopped.saved.run_id:
                stopped = None  # another process has that run by now
            past = Record(files_in(folder)) if stopped else None
            number = past.start.number if past else number
            if number != expected and not again:  # another one began at once
                checkpoints = checkpoints_of(number)
            start = replace(begun, id=folder.name, number=number)
            writer = RecordWriter(folder, past.size if past else 0)
            tracker = Tracker(writer, past.length if past else 0)
            run = Run(start, tracker, checkpoints, stopped)
            left: SystemExit | None = None
            process = os.getpid()
            try:
                if not stopped:
                    tracker.log(start, {PATCH: origin.patch} if origin.patch else {})
                    remember_patch(root, origin.patch)
                tracker.follow()
                with sampled(run.observe):
                    try:
                        yield run
                    except SystemExit as stop:
                        if isinstance(stop, Terminated) or not _is_success(stop.code):
                            raise
                        left = stop
                if os.getpid() != process:  # it was forked from the run's, which ends the run
                    if left:
                        raise left
                    return
                run._check_repeated()
                tracker.take(more=False)  # what is sealed is what the store has
                try:
                    end = _finished(run, origin, checkout, cwd)
                    end_waiting_on_signals(tracker.stop_waiting)
                    if place := record_of(checkout, origin.inputs.stage):
                        _seal(writer, checkout, place, end, start)
                except OSError as error:  # an out is a link to nothing; the disk is full
                    why = f"{error.filename}: {error.strerror}" if error.filename else reason(error)
                    raise RunFailed(f"{why}; without it outs or record are not whole.") from None
            except BaseException as error:
                if os.getpid() != process:
                    raise
                end_waiting_on_signals(tracker.stop_waiting)
                tracker.take(more=True)
                killed = _was_stopped(error)
                if killed and (why := _why_stopped()):
                    run._tag(**{PRUNED: why})
                    checkpoints.drop(run.id)
                tracker.log(*(_ended(run, "KILLED") if killed else _ended(run, "FAILED", error)))
                tracker.close(KILLED_PATIENCE if killed else PATIENCE)
                raise
            tracker.log(*end)
            checkpoints.remove(run.id)
            tracker.close(PATIENCE)
            if left:
                raise left


def _was_stopped(error: BaseException) -> bool:
    """Was the script told to stop, or is that what it exits for, as trainers of others do?"""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_was_stopped, error.exceptions))
    if isinstance(error, SystemExit) and not isinstance(error, Terminated):
        return error.__context__ is not None and _was_stopped(error.__context__)
    return isinstance(error, _STOPPED) or (isinstance(error, OSError) and is_console_gone(error))


def _is_success(code: object) -> bool:
    """Does Python end with status 0 for that? A 0.0 or one of NumPy's is printed, with status 1."""
    return code is None or (isinstance(code, int) and code == 0)


def rank_in(environment: Mapping[str, str]) -> int:
    """Which process of a job this is, as torchrun, SLURM and others say it; 0 if nobody does.

    A trial of a study is one process, wherever in a job of SLURM's the study has put it.
    """
    names = ["RANK", "LOCAL_RANK"] if WHY in environment else ["RANK", "SLURM_PROCID", "LOCAL_RANK"]
    said = (environment[name] for name in names if environment.get(name, "").isdecimal())
    return int(next(said, "0"))


def _seal(
    writer: RecordWriter,
    checkout: Path,
    place: str,
    end: tuple[RunEnded, Contents],
    start: RunStarted,
) -> None:
    """Put the sealed record in its place, one process after the other; the last one's stays."""
    with held(state_folder(checkout) / "seal.lock"):
        writer.seal(checkout / place, *end)
    if start.number > 1:
        say(
            f"note: {place} holds {start.id} now, run {start.number} of its stage; the others are "
            "in the run store alone."
        )
    with suppress(OSError):
        seen, there = files_in_folders(checkout, [place])[place], files_in(checkout / place)
        if hidden := sorted(there.keys() - seen.keys()):
            say(
                f"warning: .dvcignore hides {printable(hidden[0])} in {place} from DVC: a clone "
                f"will lack it; add '!/{place}/**' to .dvcignore."
            )


def _finished(run: Run, origin: Origin, checkout: Path, cwd: Path) -> tuple[RunEnded, Contents]:
    try:
        Path.cwd()
    except OSError:  # the script has removed it; DVC asks where it is
        os.chdir(cwd)
    if changed := changed_inputs(origin.inputs, checkout, cwd):
        raise InputsChanged(origin.inputs.stage.name, changed)
    return _ended(run, "FINISHED", outs=hash_outs(checkout, origin.inputs.stage))


def _ended(
    run: Run,
    status: Status,
    error: BaseException | None = None,
    outs: Mapping[str, str] | None = None,
) -> tuple[RunEnded, Contents]:
    digest = sha256(run.output)
    output = file_for("output", "output", digest, ".txt") if run.output else None
    # A script's own error may fail to give its text; names of files may be no text.
    told = traceback.TracebackException.from_exception(error) if error else None
    said = [f"{type(error).__name__}: {told}", *told.format()] if told else [""]
    message, *lines = (text.encode(errors="replace").decode() for text in said)
    end = RunEnded(
        now(),
        status,
        message=message,
        traceback="".join(lines),
        changed=error.changed if isinstance(error, InputsChanged) else (),
        outs=outs or {},
        output=output,
    )
    return end, {output.name: run.output} if output else {}


class InputsChanged(RunFailed):
    """What a stage reads was changed while it ran."""

    def __init__(self, stage: str, changed: tuple[str, ...]) -> None:
        super().__init__(
            f"{', '.join(changed)} changed while {stage} ran: dvc.lock would name what was not "
            "run; put it back, and 'dvc repro' goes on from the last checkpoint, or run it again "
            "as it is now."
        )
        self.changed = changed


def _why_stopped() -> str:
    try:
        return printable(Path(os.environ[WHY]).read_text(encoding="utf-8"), _LONGEST_WHY)
    except (KeyError, OSError, UnicodeDecodeError):
        return ""
