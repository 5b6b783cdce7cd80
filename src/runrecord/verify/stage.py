"""A stage run once more: what it reads is brought or made again, then its commands are run."""

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runrecord.dvc.cache import bring, locks_of, share_cache
from runrecord.dvc.lockfiles import files_at_work, states
from runrecord.dvc.stages import (
    Stage,
    files_in_folders,
    find_stage,
    hash_paths,
    is_inside,
    is_related,
    tracked_by_dvc,
)
from runrecord.errors import UserError
from runrecord.files import copy, sha256
from runrecord.git.commands import commit_of, git, top_of
from runrecord.git.patch import check_out
from runrecord.record.events import RunStarted
from runrecord.record.reader import Record
from runrecord.resume.identity import plain
from runrecord.run.process import end_program
from runrecord.safety.secrets import STRUCK, redact
from runrecord.safety.text import printable, shown

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


_Source = tuple[str, bytes, Mapping[str, bytes]]
"""A state of the repository: a commit, a patch to it, and DVC's files where they are others."""


@dataclass(frozen=True)
class Work:
    """A run that is rebuilt."""

    root: Path
    original: Record
    checkout: Path
    commit: str
    stages: Mapping[str, Stage]
    environment: Mapping[str, str]

    def restore(self, name: str) -> None:
        """Bring what a stage reads: from where it is kept, else made again by its own stage."""
        checkout = self.checkout
        read = [_behind_links(checkout, path) for path in self.stages[name].deps]
        digests = {_behind_links(checkout, one): it for one, it in self.original.start.deps.items()}
        makers = {path: other for other, stage in self.stages.items() for path in stage.outs}
        tracked = tracked_by_dvc(checkout)
        try:
            recorded = {path: digests[path] for path in read if path in digests and is_inside(path)}
            why = self._bring(recorded, (*makers, *tracked))
        except OSError as error:
            raise CannotRebuild(f"{error.filename}: {error.strerror}") from None
        its = hash_paths(checkout, read)
        for path in read:
            written = [out for out in (*makers, *tracked) if is_related(out, path)]
            whole = all(os.path.lexists(checkout / out) for out in written)
            if path in its and (its[path] == digests[path] if path in digests else whole):
                continue
            if path not in digests and any(is_related(out, path) for out in tracked):
                why = bring(checkout, [path]) or why  # the run's record does not name it
            for maker in dict.fromkeys(makers[out] for out in makers if is_related(out, path)):
                print(shown(f"{path} is kept nowhere: running {maker}"), file=sys.stderr)
                self.restore(maker)
                run_stage(self.stages[maker], checkout, self.environment)
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
        commit, by the workspace's dvc.lock, by each other commit and experiment, and by DVC's run
        cache. Returns why a remote gave nothing, if that is known.
        """
        its = hash_paths(self.checkout, digests)
        lacking = {path: digest for path, digest in digests.items() if its.get(path) != digest}
        kept = {
            path for path in lacking if path not in its or any(is_related(path, o) for o in known)
        }
        # What Git alone has is the commit's; but a folder may lack files that Git ignores.
        here = [
            path
            for path, digest in hash_paths(self.root, lacking).items()
            if digest == lacking[path]
            and (path in kept or _only_lacks_files(self.checkout, self.root, path))
        ]
        _copy(self.root, self.checkout, here)
        its = hash_paths(self.checkout, kept)
        wanted = {path: lacking[path] for path in kept if its.get(path) != lacking[path]}
        for path in wanted:
            _own(self.checkout, path)
        why = ""
        scratch = top_of(self.checkout).parent / "inputs"  # outside of the clone
        for source in self._sources(wanted) if wanted else ():
            try:
                place = self._checked_out(source, scratch)
                why = bring(place, wanted.keys()) or why
                found = hash_paths(place, wanted.keys())
            except (UserError, OSError):  # of a state that was never meant to be checked out
                continue
            for path in sorted(path for path in wanted if found.get(path) == wanted[path]):
                if (place / path).exists():  # else it went with the folder that it is in
                    _remove(self.checkout, path)
                    (self.checkout / path).parent.mkdir(parents=True, exist_ok=True)
                    (place / path).rename(self.checkout / path)
                del wanted[path]
            if not wanted:
                break
        shutil.rmtree(scratch, ignore_errors=True)
        return why

    def _sources(self, wanted: Mapping[str, str]) -> Iterator[_Source]:
        """Where to look, each state that differs in what is wanted once."""
        patch = self.original.patch()
        yield self.commit, patch, {}
        seen: set[object] = set()
        for known in states(self.root, *wanted):
            outs = [out for out in known.outs if any(is_related(out.path, path) for path in wanted)]
            key = frozenset((out.path, out.oid) for out in outs), known.ids
            if key in seen or not (outs or any(known.ids)):
                continue
            seen.add(key)
            if known.commit is not None:
                yield known.commit, b"", {}
            elif head := commit_of(self.root, "HEAD"):
                yield head, b"", files_at_work(self.root)
        for stage in self.stages.values():
            if any(is_related(out, path) for out in stage.outs for path in wanted):
                for lock in locks_of(self.root, stage):
                    yield self.commit, patch, lock

    def _checked_out(self, source: _Source, clone: Path) -> Path:
        """The DVC repository of a state, in a clone that shares the cache and the remotes."""
        commit, patch, files = source
        if clone.exists():
            git(clone, "clean", "--quiet", "-ffdx")
        check_out(self.root, commit, patch, clone)
        place = clone / self.root.resolve().relative_to(top_of(self.root).resolve())
        for name, content in files.items():
            if (place / name).parent.is_dir():
                (place / name).write_bytes(content)
        # A copy: what is rebuilt may write to it.
        share_cache(self.root, place, links="reflink,copy", notes=clone / ".dvc-notes")
        return place


def _copy(root: Path, target: Path, paths: Collection[str]) -> None:
    """Put files and folders of the workspace in place, to be written to."""
    folders = files_in_folders(root, [path for path in paths if (root / path).is_dir()])
    for path in sorted(paths):
        _remove(target, path)
        for name, file in folders.get(path, {"": root / path}).items():
            place = target / path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            copy(file, place)
            place.chmod(file.stat().st_mode | stat.S_IWUSR)


def _own(checkout: Path, name: str) -> Path:
    """The place of a path in a checkout, which is to be written.

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
    return path


def _remove(checkout: Path, name: str) -> None:
    """Remove a file, link or folder of a checkout, if it is there."""
    path = _own(checkout, name)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _only_lacks_files(checkout: Path, root: Path, path: str) -> bool:
    """Has the workspace all files that a folder has in a checkout, and more of them?"""
    if not ((checkout / path).is_dir() and (root / path).is_dir()):
        return False
    (mine,), (others,) = (files_in_folders(top, [path]).values() for top in (checkout, root))
    return all(
        name in others and sha256(others[name]) == sha256(file) for name, file in mine.items()
    )


def _behind_links(checkout: Path, path: str) -> str:
    """Where a path leads in a checkout, by links that Git has; itself where that is outside."""
    place = Path(os.path.realpath(checkout / path))
    top = checkout.resolve()
    return place.relative_to(top).as_posix() if place.is_relative_to(top) else path


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


def run_stage(
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
    for command in stage.commands:
        words = [program, *_SHELLS[name], "-c", command]
        named = {**environment, "DVC_STAGE": stage.name, "SHELL": program}
        run_command(stage.name, words, checkout / stage.folder, named)


def run_command(
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
