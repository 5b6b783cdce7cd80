"""Rebuilding a run from its record: the commit, the change, the data, then its stage once more."""

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from secrets import token_hex

from runrecord.dvc.cache import bring, share_cache
from runrecord.dvc.lockfiles import states
from runrecord.dvc.stages import (
    Stage,
    files_in_folders,
    find_stage,
    hash_paths,
    is_inside,
    is_related,
    stages_of,
    tracked_by_dvc,
)
from runrecord.errors import UserError
from runrecord.files import copy
from runrecord.git.commands import GitFailed, commit_of, commits_that_changed, git, top_of
from runrecord.git.patch import LEFT_OUT, check_out
from runrecord.provenance.environment import hash_outs, variables_of
from runrecord.record.events import COMMIT, START, RunStarted
from runrecord.record.reader import Record, files_in
from runrecord.resume.identity import plain
from runrecord.run.process import end_program
from runrecord.safety.secrets import STRUCK, redact
from runrecord.safety.text import printable, shown
from runrecord.store.catalog import sealed_ids
from runrecord.store.runs import (
    EXECUTION,
    is_running,
    place_in,
    run_dirs,
    state_folder,
    working_on,
)

_NOT_INHERITED = ("DVC_", "GIT_", "MLFLOW_", "RUNRECORD_")
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # a rebuilt run is on record wherever verify runs

# The shells that DVC may run commands by, and what it tells them so that they read no settings.
_SHELLS = {
    "sh": (),
    "dash": (),
    "ksh": (),
    "fish": ("--no-config",),
    "bash": ("--noprofile", "--norc"),
    "zsh": ("--no-rcs",),
}


class CannotRebuild(Exception):
    """Something is missing; the message is a clause for a person that says what."""


@dataclass(frozen=True)
class Rebuilt:
    """What came of rebuilding a run."""

    record: Record | None  # of its counterpart; None where the stage left other runs than then
    count: int  # of the runs that the stage left
    commit: str  # that the code is from
    unseen: tuple[str, ...]
    """Outs that no record tells of: outside the repository, or changed after the run had ended."""


def rebuild(root: Path, original: Record, folder: Path, own_packages: bool) -> Rebuilt:
    """Run a stage as it was run, in `folder`; the record of the new run lies there too.

    Nothing of it reaches the tracking store, and neither DVC's run cache nor a checkpoint is used.
    With `own_packages`, its virtual environment is made from the lock file of its commit.

    Raises:
        CannotRebuild: the commit, the change or the data cannot be had, or the stage fails.
    """
    start = original.start
    checkout, commit = _check_out(root, start, original.patch(), folder / "repository")
    search = Path(sys.executable).parent
    if own_packages:
        search = _install(checkout, folder / "environment")
    try:
        stages = stages_of(checkout)
    except UserError as error:
        raise CannotRebuild(str(error).rstrip(".")) from None
    if start.stage not in stages:
        raise CannotRebuild(f"its dvc.yaml has no stage '{start.stage}'")
    work = _Work(root, original, checkout, commit, stages, _environment(start, checkout, search))
    work.restore(start.stage)
    _run_stage(stages[start.stage], checkout, work.environment, start.tags.get("dvc.shell"))
    found = {path: Record(files_in(path)) for path in run_dirs(checkout)}
    again = {path: one for path, one in found.items() if one.start.stage == start.stage}
    if not again:
        raise CannotRebuild(f"{start.stage} of that commit leaves no record where it belongs")
    own = counterpart(start, again)
    kept = start.id in sealed_ids(root) or "/files/md5/" in str(original.contents[START])
    if own and kept and "dvc.stage" in start.tags and own.start.id not in sealed_ids(checkout):
        own = None  # what DVC keeps is the record of another run
    last = hash_outs(checkout, stages[start.stage])
    told = own.end.outs if own and own.end else {}
    changed = {name for name, _ in told.items() ^ last.items()}
    return Rebuilt(own, len(again), commit, (*stages[start.stage].outside, *sorted(changed)))


def counterpart(start: RunStarted, again: Mapping[Path, Record]) -> Record | None:
    """The rebuilt run that is that one by its number, of those in these folders; None if none is.

    Raises:
        CannotRebuild: another process had a run of the stage at that time: numbers tell nothing.
    """
    same = [one for one in again.values() if one.start.command == start.command]
    if start.number == 1 and len(same) == 1:  # runs were not always numbered
        return same[0]
    process = {one.start.number: place_in(folder).get("process") for folder, one in again.items()}
    own = next((one for one in again.values() if one.start.number == start.number), None)
    if own is None:
        return None
    for one in again.values():
        began = max(one.start.time, own.start.time)
        together = began < min(one.last_sign_of_life, own.last_sign_of_life)
        if together and process[one.start.number] != process[own.start.number]:
            raise CannotRebuild(
                "other processes run its stage at the same time, so that nothing tells which of "
                "the rebuilt runs it is"
            )
    return own


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A folder that goes when it is done with; those of processes that were killed go too."""
    folders = state_folder(root).resolve() / "verify"  # DVC sees no stage behind a link
    for left in folders.glob("*/"):
        if not is_running(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = folders / token_hex(4)
    folder.mkdir(parents=True)
    try:
        with working_on(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another process verifies too
            folders.rmdir()


def _check_out(root: Path, start: RunStarted, patch: bytes, clone: Path) -> tuple[Path, str]:
    """The code of a run, in a clone: the folder in it that `root` is in its own repository.

    Also the commit that it is from: the run's own or, where that is not here, one whose files are
    those that the run read.
    """
    commit = start.tags.get("git.commit", "")
    if refused := start.tags.get("git.error"):
        raise CannotRebuild(f"its code was not recorded: {refused}")
    if not COMMIT.fullmatch(commit):
        raise CannotRebuild("it was run outside Git, so that its code is not known")
    if (left_out := start.tags.get("git.patch", "")).startswith(LEFT_OUT):
        raise CannotRebuild(f"its uncommitted change was {left_out}")
    try:
        if commit_of(root, commit) is None:
            return _check_out_equal(root, start, patch, clone)
        return check_out(root, commit, patch, clone), commit
    except GitFailed as error:
        raise CannotRebuild(str(error)) from None


def _check_out_equal(root: Path, start: RunStarted, patch: bytes, clone: Path) -> tuple[Path, str]:
    """Check out a commit in place of the run's: the newest that it could be of."""
    read = [path for path in start.deps if is_inside(path)]
    own = start.stage.rpartition(":")[0] or "dvc.yaml"
    commits = commits_that_changed(root, [*read, "params.yaml", own, f"{own[:-4]}lock"])
    # The change may have been committed by then; dvc.lock changes with params of any file.
    for commit, change in product(commits, dict.fromkeys([patch, b""])):
        with suppress(UserError):  # the change is of other files, or DVC cannot read it
            checkout = check_out(root, commit, change, clone)
            stages = stages_of(checkout)
            outs = [out for stage in stages.values() for out in stage.outs]
            outs += tracked_by_dvc(checkout)
            code = [path for path in read if not any(is_related(path, out) for out in outs)]
            equal = hash_paths(checkout, code) == {path: start.deps[path] for path in code}
            stage = stages.get(start.stage)
            if stage and code and equal and is_of(start, stage, checkout):
                return checkout, commit
    raise CannotRebuild(
        f"its commit {start.tags['git.commit']} is not in this clone, nor one whose files, params "
        "and command are all those that it had; fetch it, if it is anywhere"
    )


def _install(checkout: Path, environment: Path) -> Path:
    """Make a virtual environment from the checkout's lock file; the folder of its programs."""
    lock = checkout / "requirements.lock"
    if not lock.exists():
        raise CannotRebuild("its commit has no requirements.lock to install from")
    programs = environment / "bin"
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--require-hashes"]
    pip += ["--disable-pip-version-check", "--requirement", str(lock)]
    for command in ([sys.executable, "-m", "venv", str(environment)], pip):
        _run_command("--env", command, checkout, {**os.environ, "PIP_USER": "0"})
    return programs


def _environment(start: RunStarted, checkout: Path, search: Path) -> dict[str, str]:
    """Variables that change numbers as the run had them, unless a person sets them; all others."""
    mine = {
        key: text
        for key, text in os.environ.items()
        if not key.startswith(_NOT_INHERITED) and key not in _RANKS
    }
    return {
        **variables_of(start.tags),
        **mine,
        "PATH": f"{search}{os.pathsep}{os.environ.get('PATH', '')}",
        "DVC_ROOT": str(checkout),
        "RUNRECORD_SINKS": "off",
        EXECUTION: token_hex(8),
        "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",  # in the clone, for a script's own runs
    }


@dataclass(frozen=True)
class _Work:
    """A run that is rebuilt."""

    root: Path
    original: Record
    checkout: Path
    commit: str
    stages: Mapping[str, Stage]
    environment: Mapping[str, str]

    def restore(self, name: str) -> None:
        """Bring what a stage reads: from where it is kept, else made again by its own stage."""
        checkout, read, digests = self.checkout, self.stages[name].deps, self.original.start.deps
        makers = {path: other for other, stage in self.stages.items() for path in stage.outs}
        tracked = tracked_by_dvc(checkout)
        known = (*makers, *tracked)
        try:
            recorded = {path: digests[path] for path in read if path in digests and is_inside(path)}
            why = self._bring(recorded, known)
        except OSError as error:
            raise CannotRebuild(f"{error.filename}: {error.strerror}") from None
        its = hash_paths(checkout, read)
        for path in read:
            written = [out for out in known if is_related(out, path)]
            whole = all(os.path.lexists(checkout / out) for out in written)
            if path in its and (its[path] == digests[path] if path in digests else whole):
                continue
            if path not in digests and any(is_related(out, path) for out in tracked):
                # The run's record does not name it. A copy: what is rebuilt may write to it.
                share_cache(self.root, checkout, links="reflink,copy")
                why = bring(checkout, [path]) or why
            for maker in dict.fromkeys(makers[out] for out in written if out in makers):
                print(shown(f"{path} is kept nowhere: running {maker}"), file=sys.stderr)
                self.restore(maker)
                _run_stage(self.stages[maker], checkout, self.environment)
            if path in digests and not (checkout / path).exists():
                because = f" ({why})" if why else ""
                raise CannotRebuild(
                    f"{path}, which it read, is neither here nor in DVC's cache or "
                    f"remote{because}; run 'dvc push' where the run was made"
                )

    def _bring(self, digests: Mapping[str, str], known: Collection[str]) -> str:
        """Put files and folders in place that have these SHA-256, by their paths.

        They are looked for in the workspace. Those that DVC may keep, which is what is not in Git
        or is related to what DVC has `known`, are then looked for as DVC has them by the run's own
        and by each other commit and experiment. Returns why a remote gave nothing, if it did not.
        """
        its = hash_paths(self.checkout, digests)
        lacking = {path: digest for path, digest in digests.items() if its.get(path) != digest}
        wanted = {
            path: digest
            for path, digest in lacking.items()
            if path not in its or any(is_related(path, out) for out in known)
        }
        for path, digest in hash_paths(self.root, lacking).items():
            if digest == lacking[path]:
                # What Git alone has is the commit's; but a folder may lack files that Git ignores.
                _copy(self.root, self.checkout, path, over=path in wanted)
                wanted.pop(path, None)
        why, scratch = "", top_of(self.checkout).parent / "inputs"  # outside of the clone
        for commit, patch in self._sources(wanted) if wanted else ():
            if scratch.exists():
                git(scratch, "clean", "--quiet", "-ffdx")
            try:
                place = check_out(self.root, commit, patch, scratch)
                share_cache(self.root, place, notes=scratch / ".dvc-notes")
                why = bring(place, wanted.keys()) or why
                found = hash_paths(place, wanted)
            except (UserError, OSError):  # of a state that was never meant to be checked out
                continue
            for path in [path for path in wanted if found.get(path) == wanted[path]]:
                _copy(place, self.checkout, path, over=True)
                del wanted[path]
            if not wanted:
                break
        shutil.rmtree(scratch, ignore_errors=True)
        return why

    def _sources(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """Commits to look in, and changes of them; of those equal in what is wanted, one."""
        yield self.commit, self.original.patch()
        seen: set[object] = {frozenset()}
        for known in states(self.root):
            outs = [out for out in known.outs if any(is_related(out.path, path) for path in wanted)]
            if known.commit and frozenset(outs) not in seen:
                seen.add(frozenset(outs))
                yield known.commit, b""
        for commit in commits_that_changed(self.root, wanted):
            yield commit, b""


def _copy(root: Path, target: Path, path: str, over: bool) -> None:
    """Put a file or folder of the workspace in place, to be written to; `over` what is there."""
    folder = files_in_folders(root, [path] if (root / path).is_dir() else [])
    if over:
        _remove(target, path)
    _own(target, f"{path}/any" if folder else path)  # it may have no files
    for name, file in folder.get(path, {"": root / path}).items():
        place = _own(target, f"{path}/{name}".rstrip("/"))
        if not os.path.lexists(place):
            copy(file, place)
            place.chmod(file.stat().st_mode | stat.S_IWUSR)


def _own(checkout: Path, name: str) -> Path:
    """The place of a path in a checkout, which is to be written, in a folder that Git may lack.

    Raises:
        CannotRebuild: links that Git has lead out of the checkout, to what is a person's own.
    """
    path = checkout / name
    clone = os.path.realpath(top_of(checkout))
    if not Path(os.path.realpath(path.parent)).is_relative_to(clone):
        raise CannotRebuild(
            f"{name} is behind a link that leads out of the repository, to "
            f"{os.path.realpath(path.parent)}: rebuilding would write there"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _remove(checkout: Path, name: str) -> None:
    """Remove a file, link or folder of a checkout, if it is there."""
    path = _own(checkout, name)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_of(start: RunStarted, stage: Stage, checkout: Path) -> bool:
    """Are a run's params and command those of a stage, as far as the run's record tells of them?"""
    params = find_stage(checkout, start.stage, checkout / stage.folder).params, start.params
    struck = {name for name, value in start.params.items() if STRUCK in str(value)}
    its, own = ({k: repr(plain(v)) for k, v in one.items() if k not in struck} for one in params)
    fit = its.items() <= own.items() or (own and not its.keys() & own.keys())  # or a script's own
    given = " ; ".join(stage.commands), " ".join(start.command)
    text, program = (re.sub(r"[\s'\"\\]+", " ", one).strip() for one in given)
    known = program.split(" ")[0] in text and not re.search(r"[$`*?{]|xargs| -c ", text)
    said = re.search(rf"{re.escape(program)} ?($|[;&|<>)#]|\d>)", text)
    return bool(fit and (said or not known))


def _run_stage(
    stage: Stage, checkout: Path, environment: Mapping[str, str], shell: str | None = None
) -> None:
    """Run the commands of a stage, each after the one before it ended well, by the same shell.

    As DVC does, it removes the stage's outs first, less those that persist.
    """
    if not stage.commands:
        raise CannotRebuild("its dvc.yaml gives the stage no command of its own")
    name = Path(shell or "sh").name
    program = shutil.which(name)
    if name not in _SHELLS or program is None:
        raise CannotRebuild(f"it was run by the shell '{printable(name)}', which is not here")
    for out in {*stage.outs} - {*stage.persistent}:
        _remove(checkout, out)
    folder = _own(checkout, f"{stage.folder}/any").parent
    for command in stage.commands:
        named = {**environment, "DVC_STAGE": stage.name, "SHELL": program}
        _run_command(stage.name, [program, *_SHELLS[name], "-c", command], folder, named)


def _run_command(
    name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> None:
    """Run a command to its end, what it says going to standard error; if we stop, so does it."""
    said = "without a word"
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                sys.stderr.write(f"{shown(line)}\n")
                said = line.strip() or said
            process.wait()
        finally:
            end_program(process, partial(os.killpg, process.pid))
    if process.returncode:
        why = redact(said.splitlines()[-1].strip().rstrip(".")).removeprefix("error: ")
        raise CannotRebuild(f"{name} fails here: {why}")
