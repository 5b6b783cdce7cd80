"""The stages of a DVC repository, as DVC itself resolves them; and which files it sees."""

import os
import posixpath
import re
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runrecord.errors import RunFailed, UserError
from runrecord.files import sha256, sha256_of_files
from runrecord.git.commands import GitFailed, git
from runrecord.safety.text import clause, reason
from runrecord.store.runs import dvc_folder

if TYPE_CHECKING:
    from dvc.ignore import DvcIgnoreFilter
    from dvc.repo import Repo

_COMPILED = re.compile(r"([^\0]*/)?__pycache__/[^/]+\.(pyc|nbi|nbc)(\.\d+)?")  # Python's, Numba's


@dataclass(frozen=True)
class Stage:
    """A stage; all paths are from the repository's root, outside of which deps alone may be."""

    name: str  # as `dvc repro` takes it there: `train`, `train@0`, `sub/dvc.yaml:train`
    commands: tuple[str, ...] = ()  # the shell's, each run after the one before it ended well
    folder: str = "."  # where they run
    deps: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()  # metrics and plots among them
    persistent: tuple[str, ...] = ()  # outs that DVC leaves where they are
    outside: tuple[str, ...] = ()  # outs outside the repository, as dvc.yaml names them


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
        except (KeyError, RuntimeError, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise sqlite3.OperationalError(reason(error)) from None  # of its notes, too
            raise UserError(f"set USER and HOME, which DVC needs ({reason(error)}).") from None
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
    """Every named stage.

    Raises:
        UserError: DVC cannot read its files.
    """
    with opened(root) as repo:
        stages = [_stage(found, root.resolve()) for found in _named(repo)]
    return {stage.name: stage for stage in stages}


def tracked_by_dvc(root: Path) -> tuple[str, ...]:
    """What .dvc files name, by paths from the root: files added or imported.

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
    params: dict[str, object]  # by dotted names; those of another file than params.yaml by `FILE:`
    generated: tuple[str, ...]  # what any stage writes


def find_stage(root: Path, name: str, cwd: Path) -> StageAtWork:
    """The stage that runs in `cwd`; of one that no dvc.yaml has, nothing is known but its name.

    That is as DVC_STAGE has it, whose path is from wherever `dvc repro` was started.

    Raises:
        UserError: DVC cannot read its files.
    """
    with opened(root) as repo:
        place = root.resolve()
        generated = _local_paths(repo.index.outs, place)
        found = _of_name(_named(repo), name, place, cwd.resolve())
        if found is None:
            return StageAtWork(Stage(name), {}, generated)
        params: dict[str, object] = {}
        for file in found.params:
            prefix = "" if file.def_path == file.DEFAULT_PARAMS_FILE else f"{file.def_path}:"
            params |= _leaves(prefix, file.read_params())
        return StageAtWork(_stage(found, place), params, generated)


def _of_name(stages: list[Any], name: str, root: Path, cwd: Path) -> Any | None:
    """The stage that DVC_STAGE names, by a path from where `dvc` began; else that of `cwd`."""
    told = os.environ.get("DVC_STAGE", "")
    name = told if told.rpartition(":")[2] == name else name  # a script gives it without its file
    path, _, own = name.rpartition(":")
    named = {Path(one.path).resolve(): one for one in stages if one.name == own}  # by its file
    place = dvc_folder(root) if name == told else None
    if place and (exact := named.get((place / (path or "dvc.yaml")).resolve())):
        return exact
    here = [one for one in named.values() if Path(one.wdir).resolve() == cwd]
    here = here or [*named.values()]
    if len(here) < 2:
        return here[0] if here else None
    if (exact := named.get((root / (path or "dvc.yaml")).resolve())) in here:
        return exact
    names = ", ".join(sorted(_stage(one, root).name for one in here))
    raise UserError(
        f"DVC_STAGE is '{name}', which may be any of {names}, which run in {cwd}; start "
        "'dvc repro' from the repository's root"
    )


def committed_params(root: Path) -> dict[str, object]:
    """What params.yaml holds in the commit at hand, by dotted names; nothing where it has none."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import parse_yaml

    name = "params.yaml"
    try:
        return _leaves("", parse_yaml(git(root, "cat-file", "blob", f"HEAD:./{name}"), name))
    except (DvcException, GitFailed, AttributeError):  # AttributeError: it holds no names
        return {}


def read_values(path: Path) -> Any:
    """What a file of params, or of metrics, holds.

    Raises:
        UserError: it cannot be read.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import PARSERS

    try:
        return PARSERS[path.suffix.lower()](path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except (DvcException, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}).") from None


def value_in(path: Path, metric: str) -> float:
    """The value of a metric in a file: by its name there, else by a dotted one.

    Raises:
        UserError: it has no number of that name.
    """
    found = read_values(path)
    value: Any = found.get(metric) if isinstance(found, dict) else None
    if value is None:
        value = found
        for key in metric.split("."):
            value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{path.name}: has no number '{metric}'.")
    return float(value)


def value_of(text: str) -> Any:
    """A value as params.yaml has it.

    Raises:
        ValueError: it is none.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import parse_yaml

    try:
        return parse_yaml(f"value: {text}", "")["value"]
    except (DvcException, KeyError):
        raise ValueError(f"{text!r} is no YAML") from None


def write_values(path: Path, values: Mapping[tuple[str, ...], Any]) -> None:
    """Set values in a file of params, by their places in it; its comments stay."""
    from dvc.utils.serialize import MODIFIERS

    with MODIFIERS[path.suffix.lower()](str(path)) as content:
        for (*blocks, name), value in values.items():
            at = content
            for block in blocks:
                at = at[block]
            at[name] = value


def is_inside(path: str) -> bool:
    """Does a path from the repository's root stay in the repository?"""
    return not posixpath.isabs(path) and posixpath.normpath(path).partition("/")[0] != ".."


def is_related(one: str, other: str) -> bool:
    """Are two paths the same, or is one inside the other?"""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def hash_paths(
    root: Path,
    paths: Iterable[str],
    compiled: bool = False,
    digest_of: Callable[[Path], str] = sha256,
) -> dict[str, str]:
    """SHA-256 of each file and folder that is there, by its path.

    A folder counts by its files, without those that .dvcignore names. Those behind a link to a
    folder count too, and those of a DVC repository inside, though DVC sees neither.

    Args:
        root: of the DVC repository.
        paths: from there.
        compiled: count what Python compiles, too, which a stage that only reads a folder writes.
        digest_of: gives a file's SHA-256.
    """
    there = [path for path in paths if (root / path).exists()]
    found = {path: digest_of(root / path) for path in there if not (root / path).is_dir()}
    folders = files_in_folders(root, [path for path in there if path not in found])
    for path, files in folders.items():
        counted = (name for name in files if compiled or not _COMPILED.fullmatch(name))
        found[path] = sha256_of_files({name: files[name] for name in counted}, digest_of)
    return {path: found[path] for path in there}


def files_in_folders(root: Path, folders: Collection[str]) -> dict[str, Mapping[str, Path]]:
    """The files of each of those folders by their names in it, less what .dvcignore names."""
    if not folders:
        return {}
    from dvc.fs import localfs
    from dvc.ignore import DvcIgnoreFilter

    place = root.resolve()
    ignore = DvcIgnoreFilter(localfs, str(place))
    places = {name: Path(os.path.normpath(place / name)) for name in folders}
    return {name: dict(_files(ignore, one, "", frozenset())) for name, one in places.items()}


def _files(
    ignore: "DvcIgnoreFilter", folder: Path, name: str, above: frozenset[Path]
) -> Iterator[tuple[str, Path]]:
    """The files in a folder, which is behind those links, by their names from the first one."""
    if folder.resolve() in above:
        return  # a link to where it is itself
    for place, folders, files in ignore.walk(ignore.fs, str(folder), ignore_subrepos=False):
        here = Path(place)
        below = Path(name, here.relative_to(folder))
        for file in files:
            yield (below / file).as_posix(), here / file
        for one in folders:
            if (here / one).is_symlink():
                behind = above | {folder.resolve()}
                yield from _files(ignore, here / one, (below / one).as_posix(), behind)


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
        tuple(
            _local_path(dep, root)
            for dep in found.deps
            if dep not in params and dep.protocol == "local"
        ),
        _local_paths(found.outs, root),
        _local_paths([out for out in found.outs if out.persist], root),
        tuple(str(out.def_path) for out in found.outs if not _local_paths([out], root)),
    )


def _local_paths(entries: list[Any], root: Path) -> tuple[str, ...]:
    """Those in the repository; what lies elsewhere is not the engine's to write."""
    paths = (_local_path(entry, root) for entry in entries if entry.protocol == "local")
    return tuple(filter(is_inside, paths))


def _local_path(entry: Any, root: Path) -> str:
    """Its path from the root; of one elsewhere, as dvc.yaml has it: absolute, or by `..`."""
    path = Path(entry.fs_path)
    if path.is_relative_to(root) or not Path(entry.def_path).is_absolute():
        path = Path(os.path.relpath(path, root))
    return path.as_posix()


def _leaves(prefix: str, values: dict[str, Any]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        plain = list(value) if isinstance(value, tuple) else value  # of a Python file
        found |= _leaves(f"{prefix}{key}.", value) if nested else {f"{prefix}{key}": plain}
    return found
