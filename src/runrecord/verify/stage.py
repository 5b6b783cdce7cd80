"""A stage run once more: what it reads is brought or made again, then its commands are run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runrecord.dvc.cache import bring, remove, restore
from runrecord.dvc.stages import Stage, files_in_folders, hash_paths, is_related, tracked_by_dvc
from runrecord.files import sha256
from runrecord.record.reader import Record
from runrecord.run.process import end_program
from runrecord.safety.secrets import redact
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
        its = hash_paths(checkout, read)
        recorded = {path: digests[path] for path in read if path in digests}
        lacking = {path: digest for path, digest in recorded.items() if its.get(path) != digest}
        # What Git alone has is the commit's; but a folder may lack files that Git ignores.
        known = (*makers, *tracked)
        kept = [
            one for one in lacking if one not in its or any(is_related(one, out) for out in known)
        ]
        wanted = {
            path: digest
            for path, digest in lacking.items()
            if path in kept or _only_lacks_files(checkout, self.root, path)
        }
        scratch, patch = checkout.parent / "inputs", self.original.patch()
        stages = [*self.stages.values()]
        try:
            why = restore(self.root, checkout, wanted, kept, scratch, self.commit, patch, stages)
        except OSError as error:
            raise CannotRebuild(f"{error.filename}: {error.strerror}") from None
        its = hash_paths(checkout, read)
        for path in read:
            if path in its and its[path] == digests.get(path, its[path]):
                continue
            if path not in its and any(is_related(out, path) for out in tracked):
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
        remove(checkout / out)
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
