"""A folder of one's own images becomes a data set, or is refused in a sentence that says why."""

import gzip
import hashlib
import json
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from workspaces import ROOT, assert_says

from generative.core.config import Data
from generative.core.idx import files_in, read_set, read_split
from generative.data.download import download
from generative.data.image_folder import folder_classes, folder_to_idx
from generative.data.sources import class_names, sha256_of
from generative.errors import RunFailed
from generative.pipeline import check
from generative.pipeline.download import download_data
from runrecord.record.reader import Record, view
from runrecord.record.reader import files_in as record_files
from runrecord.store.runs import run_dirs

GREY = (9, 8)
"""Height and width: no model's square."""


def picture(path: Path, value: int = 7, mode: str = "L", size: tuple[int, int] = GREY) -> None:
    """An image of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], value if len(mode) == 1 else (value, 1, 2)).save(path)


def pictures(folder: Path, count: int, first: int = 0) -> None:
    """Images of the values `first` and on, whose names sort by value."""
    for value in range(first, first + count):
        picture(folder / f"{value:03}.png", value)


def values(folder: Path) -> list[list[tuple[int, int | None]]]:
    """Each split's images by their value, with their labels."""
    return [
        [
            (int(one.max()), None if labels is None else int(labels[n]))
            for n, one in enumerate(images)
        ]
        for images, labels in read_set(folder)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "idx").mkdir()
    return tmp_path / "idx"


def test_images_without_classes_are_divided_by_the_sums_of_their_names(
    folder: Path, into: Path
) -> None:
    pictures(folder, 23)
    (folder / ".DS_Store").write_bytes(b"hidden")
    folder_to_idx(folder, into)
    by_sum = sorted(range(23), key=lambda n: hashlib.sha256(f"{n:03}.png".encode()).digest())
    train, test = values(into)
    assert [value for value, _ in test] == by_sum[:3]
    assert [value for value, _ in train] == by_sum[3:]
    assert {label for _, label in train + test} == {None}
    assert folder_classes(folder) == []
    assert [path.name for path in files_in(into)] == [
        "train-images-idx3-ubyte",
        "t10k-images-idx3-ubyte",
    ]
    assert read_set(into)[0][0].shape == (20, 1, *GREY)


def test_sub_folders_are_classes(folder: Path, into: Path) -> None:
    pictures(folder / "dog", 5, first=50)
    pictures(folder / "cat", 4)
    pictures(folder / ".git", 1, first=99)
    folder_to_idx(folder, into)
    train, test = values(into)
    assert len(test) == 2
    assert sorted(train + test) == [(n, 0) for n in range(4)] + [(n, 1) for n in range(50, 55)]
    assert {label for _, label in train[:5]} == {0, 1}, "what pictures show is of both classes"
    assert folder_classes(folder) == ["cat", "dog"]


def test_folders_train_and_test_are_the_splits(folder: Path, into: Path) -> None:
    for start, split in ((0, "train"), (100, "test")):
        for label, name in enumerate(("cat", "dog")):
            pictures(folder / split / name, 2, first=start + 10 * label)
    folder_to_idx(folder, into)
    assert folder_classes(folder) == ["cat", "dog"]
    for found, start in zip(values(into), (0, 100), strict=True):
        assert sorted(found) == [(start + n, n // 10) for n in (0, 1, 10, 11)]
    for name in ("train", "test"):
        (folder / name).rename(folder / f"express {name}")
    assert folder_classes(folder) == ["express test", "express train"]


def test_a_picture_is_turned_upright_as_its_camera_says(folder: Path, into: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    folder.mkdir(exist_ok=True)
    for number in range(4):
        Image.new("L", (20, 10)).save(folder / f"{number}.jpg", exif=exif)
    folder_to_idx(folder, into)
    assert read_split(into, "train")[0].shape == (2, 1, 20, 10)


@pytest.mark.parametrize("kind", ["RGB", "P", "1"])
def test_grey_and_coloured_images_keep_their_pixels(kind: str, folder: Path, into: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*GREY, 3), np.uint8)
    image = Image.fromarray(pixels).convert(kind)
    for number in range(4):
        image.save(folder / f"{number}.png")
    folder_to_idx(folder, into)
    expected = np.asarray(image.convert("L" if kind == "1" else "RGB"))
    for images, labels in read_set(into):
        assert labels is None
        assert (images == (expected[None] if kind == "1" else expected.transpose(2, 0, 1))).all()


def test_what_pillow_reads_is_taken(folder: Path, into: Path) -> None:
    for ending in ("jpg", "bmp", "gif", "tiff", "webp"):
        picture(folder / f"one.{ending}", mode="RGB")
    (folder / "linked").symlink_to("one.jpg")
    folder_to_idx(folder, into)
    assert sum(len(images) for images, _ in read_set(into)) == 6


def cut(path: Path) -> None:
    picture(path, size=(90, 80))
    path.write_bytes(path.read_bytes()[:-60])


def emptied(folder: Path, *names: str) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for name in names:
        (folder / name).mkdir() if name.endswith("/") else picture(folder / name)


def small(folder: Path) -> None:
    for path in folder.iterdir():
        picture(path, size=(9, 7))


def header(width: int, height: int, bits: int, colour: int) -> Callable[[Path], object]:
    """Writes the beginning of a PNG file, up to its pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    checked = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    content = b"\x89PNG\r\n\x1a\n" + checked + b"\0\0\0\1IDAT"
    return lambda folder: (folder / "003.png").write_bytes(content)


def saved(name: str, mode: str) -> Callable[[Path], object]:
    """Saves an image of that mode, transparent where a palette says so."""
    image = Image.new(mode, (8, 9))
    if mode == "P":
        image.info["transparency"] = 0
    return lambda folder: image.save(folder / name)


# What becomes of a folder with eight images, and what is said; {f} is the folder.
SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (
        lambda f: (f / "003.png").write_text("notes"),
        "{f}/003.png: not an image that can be",
    ),
    "truncated PNG": (lambda f: cut(f / "003.png"), "{f}/003.png: cannot be read ( ... ); mend"),
    "truncated JPEG": (lambda f: cut(f / "003.jpg"), "{f}/003.jpg: ... truncated ... mend or rem"),
    "bomb": (header(10_000, 10_000, 8, 0), "{f}/003.png: ... 89,478,485 pixels; make it smaller"),
    "bigger": (header(60_000, 60_000, 8, 0), "{f}/003.png: ... 89,478,485 pixels; make it smaller"),
    "broken link": (lambda f: (f / "link").symlink_to("nothing"), "{f}/link: ... remove it."),
    "pipe": (lambda f: os.mkfifo(f / "pipe"), "{f}/pipe: ... remove it."),
    "size": (
        lambda f: picture(f / "003.png", size=(9, 10)),
        "{f}/003.png: ... 10 ... {f}/0 ... .png 8 pixels wide and 9 high ... one size.",
    ),
    "colour": (
        lambda f: picture(f / "003.png", mode="RGB"),
        "{f}/003.png: ... colour, {f}/0 ... .png grey; save all",
    ),
    "RGBA": (saved("003.webp", "RGBA"), "{f}/003.webp: ... transparency; save it without"),
    "palette": (saved("003.gif", "P"), "{f}/003.gif: ... transparency; save it without"),
    "16 bits": (saved("003.tiff", "I;16"), "{f}/003.tiff: ... save it with 8."),
    "floats": (saved("003.tiff", "F"), "{f}/003.tiff: ... save it with 8."),
    "RGB of 16 bits": (header(8, 9, 16, 2), "{f}/003.png: ... save it with 8."),
    "CMYK": (saved("003.jpg", "CMYK"), "{f}/003.jpg: ... CMYK; save it as grey or RGB."),
    "small": (small, "{f}/0 ... .png: is 7 pixels wide and 9 high ... 8 x 8."),
    "mix": (
        lambda f: picture(f / "cat" / "a.png"),
        "{f}: ... (000.png) ... (cat); put every image",
    ),
}
# All that a folder holds, and what is said.
HELD = {
    "": "{f}: holds no image; put some into it",
    "a.png": "{f}: holds one image; give 4 or more, to train on and to test.",
    "train/a.png train/b.png test/c.png": "{f}/test: holds one image ... 2 or more.",
    "Train/a.png Test/b.png": "{f}: holds Test and Train ... train and test",
    "cat/a.png cat/b.png dog/": "{f}/dog: holds no image ... remove it.",
    "cat/a.png cat/more/b.png": "{f}/cat/more: ... directly into {f}/cat.",
    "train/a.png test/b.png c.png": "{f}: ... (c.png) ... (test); put every image into",
    "train/cat/a.png train/dog/b.png test/cat/c.png": "{f}: ... 'dog' ... give both the same",
}


@pytest.mark.parametrize("case", [*SPOILT, *HELD])
@pytest.mark.filterwarnings("error")
def test_bad_images_are_refused_in_one_sentence(case: str, folder: Path, tmp_path: Path) -> None:
    pictures(folder, 8)
    if case in HELD:
        emptied(folder, *case.split())
        sentence = HELD[case]
    else:
        spoil, sentence = SPOILT[case]
        spoil(folder)
    data = Data(name="mine", source=str(folder), sha256=None, binarize="none")
    with pytest.raises(RunFailed) as caught:
        download(data, tmp_path / "data" / "mine")
    assert_says(str(caught.value), sentence.replace("{f}", str(folder)))
    assert list((tmp_path / "data").iterdir()) == []


def test_there_are_as_many_classes_as_a_byte_numbers(folder: Path, into: Path) -> None:
    for number in range(256):
        picture(folder / str(number) / "a.png")
    folder_to_idx(folder, into)
    assert sorted(label or 0 for split in values(into) for _, label in split) == [*range(256)]
    picture(folder / "one more" / "a.png")
    with pytest.raises(RunFailed, match=f"^{folder}: holds 257 .* 256 are the most"):
        folder_to_idx(folder, into)


def test_all_that_is_wrong_is_told_at_once_and_what_systems_leave_is_none(
    folder: Path, into: Path
) -> None:
    pictures(folder, 30)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (folder / name).write_bytes(b"a system's own")
    folder_to_idx(folder, into)
    picture(folder / "024.png", size=(9, 9))
    for number in range(24):
        (folder / f"{number:03}.png").write_bytes(b"none")
    with pytest.raises(RunFailed, match=r"\(5 more\)$") as caught:
        folder_to_idx(folder, into)
    lines = str(caught.value).splitlines()
    assert [line[: line.index(": ")] for line in lines] == [
        f"{folder}/{number:03}.png" for number in range(20)
    ]


def test_images_are_taken_as_they_are_or_held_to_the_sum_that_a_command_and_the_refusal_print(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures(folder / "cat", 4)
    pictures(folder / "dog", 4)
    monkeypatch.setattr(sys, "argv", ["generative", "hash", str(folder)])
    with pytest.raises(SystemExit) as end:
        check.main()
    found = capsys.readouterr().out.strip()
    assert end.value.code == 0
    free = Data(name="mine", source=str(folder), sha256=None, binarize="none")
    assert download(free, tmp_path / "mine") == str(folder)
    assert f"taken as they are: SHA-256 {found}. If" in capsys.readouterr().out

    picture(folder / "dog" / "new.png", 99)
    right = free.model_copy(update={"sha256": found})
    assert download(right, tmp_path / "mine") == "already there"
    assert class_names(right) == ["cat", "dog"]
    assert download(free, tmp_path / "mine") == str(folder), "as they are now"
    assert sha256_of(tmp_path / "mine") != found
    with pytest.raises(RunFailed) as caught:
        download(right, tmp_path / "mine")
    said = f"{folder}: data.sha256 in params.yaml is {found}; if these are the images that you want"
    sentence = f"{said}, write data.sha256: {sha256_of(tmp_path / 'mine')}."
    assert str(caught.value) == sentence
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        ("http://127.0.0.1:1", 1, "http://127.0.0.1:1: <urlopen error "),
        ("", 2, "generative hash: source is ''; it should be "),
        ("idx", 1, "idx: Compressed file ended before the end-of-stream marker was reached."),
    ],
)
def test_the_command_says_in_one_sentence_why_images_have_no_sum(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    status: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("idx").mkdir()
    Path("idx/train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(99))[:-9])
    monkeypatch.setattr(sys, "argv", ["generative", "hash", source])
    with pytest.raises(SystemExit) as end:
        check.main()
    printed = capsys.readouterr()
    assert (end.value.code, printed.out, printed.err.count("\n")) == (status, "", 1)
    assert printed.err.startswith(f"error: {said}")


def test_the_record_has_the_names_of_the_classes(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tabby cat", "dog"):
        pictures(tmp_path / "pets" / name, 4)
    data = {"name": "pets", "source": str(tmp_path / "pets"), "sha256": None, "binarize": "none"}
    shutil.copy(ROOT / "dvc.yaml", here)
    (here / "params.yaml").write_text(f"data: {json.dumps(data)}\n")
    download_data()
    assert "classes: 0 dog, 1 tabby cat\n" in capsys.readouterr().out
    (record,) = run_dirs(here)
    assert view(Record(record_files(record))).tags["classes"] == "0 dog, 1 tabby cat"
