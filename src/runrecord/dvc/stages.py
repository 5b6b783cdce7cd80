"""The stages of a DVC repository, as DVC itself resolves them."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runrecord.errors import RunFailed, UserError
from runrecord.provenance.git import GitFailed, git
from runrecord.safety.text import clause
from runrecord.store.place import dvc_above

if TYPE_CHECKING:
    from dvc.repo import Repo


@dataclass(frozen=True)
class Stage:
    """A stage; all paths are from the repository's root."""

    name: str
    """As `dvc repro` takes it there: `train`, `train@0`, `sub/dvc.yaml:train`."""
    commands: tuple[str, ...] = ()
    """Shell commands, each run after the one before it ended well."""
    folder: str = "."
    """Where they run."""
    deps: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()
    """Metrics and plots among them."""
    persistent: tuple[str, ...] = ()
    """Outs that DVC leaves where they are. With one, its run cache has none of the stage's."""
    outside: tuple[str, ...] = ()
    """Outs that lie outside the repository, as dvc.yaml names them."""


@contextmanager
def opened(root: Path) -> "Iterator[Repo]":
    """DVC's repository at `root`.

    Raises:
        UserError: DVC refuses to open it, or what is asked of it.
        RunFailed: it cannot write what it notes of files.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        try:
            opening = Repo(str(root))
        except OSError as error:
            if error.filename is not None:
                raise
            raise sqlite3.OperationalError(error.strerror) from None  # of its notes, too
        with opening as repo:
            yield repo
    except sqlite3.Error as error:
        raise RunFailed(
            f"DVC cannot write its notes of {root} ({error}); make room on that disk and on the "
            "one that 'dvc config core.site_cache_dir' names, by default /var/tmp, or mend it."
        ) from None
    except (DvcException, TypeError) as error:  # TypeError: a date or a set among params
        told = clause(" ".join(str(error).split()))  # where it is wrong comes later
        raise UserError(f"DVC cannot read {root} ({told}).") from None


def stages_of(root: Path) -> dict[str, Stage]:
    """Every stage with a name, by that.

    Raises:
        UserError: DVC cannot read its files.
    """
    with opened(root) as repo:
        stages = [_stage(found, root.resolve()) for found in _named(repo)]
    return {stage.name: stage for stage in stages}


def tracked_by_dvc(root: Path) -> tuple[str, ...]:
    """What .dvc files name, by paths from the root: added, or imported.

    Raises:
        UserError: DVC cannot read its files.
    """
    with opened(root) as repo:
        added = [stage for stage in repo.index.stages if not getattr(stage, "name", None)]
        return _local_paths([out for stage in added for out in stage.outs], root.resolve())


@dataclass(frozen=True)
class StageAtWork:
    """A stage that runs, and what DVC knows of it now."""

    stage: Stage
    params: dict[str, object]
    """Nested ones by dotted names; those of another file than params.yaml by `FILE:NAME`."""
    generated: tuple[str, ...]
    """What any stage writes."""


def find_stage(root: Path, name: str, cwd: Path) -> StageAtWork:
    """The stage that runs in `cwd`; of one that no dvc.yaml has, nothing is known but its name.

    Args:
        root: of the DVC repository.
        name: as DVC_STAGE has it, whose path is from wherever `dvc repro` was started.
        cwd: where the stage runs.

    Raises:
        UserError: DVC cannot read its files.
    """
    with opened(root) as repo:
        place = root.resolve()
        generated = _local_paths(repo.index.outs, place)
        found = _of_name(_named(repo), name, place, cwd.resolve())
        if found is None:
            return StageAtWork(Stage(name), {}, generated)
        params = {
            key: value
            for file in found.params
            for key, value in _leaves(_prefix(file), file.read_params()).items()
        }
        return StageAtWork(_stage(found, place), params, generated)


def _of_name(stages: list[Any], name: str, root: Path, cwd: Path) -> Any | None:
    """The stage that DVC_STAGE names: by its own name, its folder, and its file's path.

    That path is from wherever `dvc repro` was started, which may be any folder of the repository.

    Raises:
        UserError: several may be meant.
    """
    path, _, own = name.rpartition(":")
    named = [one for one in stages if one.name == own]
    here = [one for one in named if Path(one.wdir).resolve() == cwd] or named
    if len(here) < 2:
        return here[0] if here else None
    file = Path(path or "dvc.yaml")
    started = _where_dvc_started()
    for base in (started, root) if started else (root,):
        if exact := [one for one in here if Path(one.path).resolve() == (base / file).resolve()]:
            return exact[0]
    tail = "/".join(part for part in file.parts if part != "..")
    if len(ending := [one for one in here if f"{one.path}".endswith(f"/{tail}")]) == 1:
        return ending[0]
    files = ", ".join(
        sorted(f"{Path(one.path).relative_to(root).as_posix()}:{own}" for one in here)
    )
    raise UserError(
        f"DVC_STAGE is '{name}', which several stages may be that run in {cwd} ({files}); start "
        "'dvc repro' from the repository's root"
    )


def _where_dvc_started() -> Path | None:
    """The folder in which the `dvc` was started that this process runs under, if it does."""
    with suppress(OSError):
        process = dvc_above()
        return Path(process.cwd()) if process else None
    return None


def committed_params(root: Path) -> dict[str, object]:
    """What params.yaml holds in the commit at hand, by dotted names; nothing where it has none."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import parse_yaml

    name = "params.yaml"
    try:
        return _leaves("", parse_yaml(git(root, "cat-file", "blob", f"HEAD:./{name}"), name))
    except (DvcException, GitFailed, AttributeError):  # AttributeError: it holds no names
        return {}


def _named(repo: "Repo") -> list[Any]:
    return [stage for stage in repo.index.stages if getattr(stage, "name", None)]


def _stage(found: Any, root: Path) -> Stage:
    file = Path(found.path).relative_to(root).as_posix()
    commands = found.cmd or ()
    written = {out.fs_path for out in found.repo.index.outs}
    params = {file for file in found.params if file.fs_path not in written}
    return Stage(
        found.name if file == "dvc.yaml" else f"{file}:{found.name}",
        tuple(commands.splitlines() if isinstance(commands, str) else commands),  # as DVC runs them
        Path(found.wdir).relative_to(root).as_posix(),
        _local_paths([dep for dep in found.deps if dep not in params], root),
        _local_paths(found.outs, root),
        _local_paths([out for out in found.outs if out.persist], root),
        tuple(str(out.def_path) for out in found.outs if not _local_paths([out], root)),
    )


def _local_paths(entries: list[Any], root: Path) -> tuple[str, ...]:
    """Those in the repository; what lies elsewhere is not the engine's to read."""
    paths = (Path(entry.fs_path) for entry in entries if entry.protocol == "local")
    return tuple(path.relative_to(root).as_posix() for path in paths if path.is_relative_to(root))


def _prefix(params: Any) -> str:
    return "" if params.def_path == params.DEFAULT_PARAMS_FILE else f"{params.def_path}:"


def _leaves(prefix: str, values: dict[str, Any]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        plain = list(value) if isinstance(value, tuple) else value  # of a Python file
        found |= _leaves(f"{prefix}{key}.", value) if nested else {f"{prefix}{key}": plain}
    return found
