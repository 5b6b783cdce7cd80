"""A folder of one's own images, as the IDX files of a data set."""

import hashlib
import os
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from generative.checks import SMALLEST, Bytes
from generative.core.idx import SPLITS, labels_file
from generative.errors import RunFailed
from runrecord.files import write_atomic

MOST_CLASSES = 256  # a label is a byte
FEWEST = 2  # images of a split
TEST_SHARE = 7  # one image in so many is for testing, as in MNIST

_OTHER_SPLITS = {"test", "testing", "val", "valid", "validation"}

_TOLD = 20  # files that are wrong, each by a line
_OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "@eadir"}

Labelled = tuple[Path, int]
"""An image's file and its class; 0 where there are no classes."""


def folder_classes(folder: Path) -> list[str]:
    """The names of a folder's classes in the order of their labels; none without classes."""
    folders, _ = _listed(folder)
    if _are_splits(folders):
        folders, _ = _listed(folder / "train")
    return [path.name for path in folders]


def folder_to_idx(folder: Path, into: Path) -> None:
    """Write the images of a folder, with labels if they have classes, into `into` as IDX files.

    One image at a time is in memory.

    Raises:
        RunFailed: the folder holds something else than images in one of the layouts that
            docs/change-the-data.md names, or images that are not all of one kind and size.
        OSError: a folder cannot be read, or a file not be written.
    """
    splits = _splits(folder)
    example, shape = _example([image for images in splits for image, _ in images])
    wrong: list[str] = []
    has_labels = bool(folder_classes(folder))
    for split, images in zip(SPLITS, splits, strict=True):
        path = into / f"{split}-images-idx{1 + len(shape)}-ubyte"
        try:
            with path.open("wb") as file:
                file.write(idx_header(len(images), *shape))
                for image, _ in images:
                    try:
                        pixels = _read(image)
                    except RunFailed as error:
                        wrong.append(str(error))
                        continue
                    if pixels.shape == shape:
                        file.write(pixels.tobytes())
                    else:
                        wrong.append(_difference(image, pixels.shape, example, shape))
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
        if has_labels:
            labels = np.array([label for _, label in images], np.uint8)
            write_atomic(labels_file(into, split), to_idx(labels))
    if wrong:
        others = f" ({len(wrong) - _TOLD} more)" if len(wrong) > _TOLD else ""
        raise RunFailed("\n".join(sorted(wrong)[:_TOLD]) + others)


def _example(images: list[Path]) -> tuple[Path, tuple[int, ...]]:
    """The first image that can be read, and its shape, which the others have to have."""
    for image in images:
        with suppress(RunFailed):  # it is told with all others
            return image, _read(image).shape
    return images[0], ()


def _splits(folder: Path) -> tuple[list[Labelled], list[Labelled]]:
    """The images to train on and those to test, each in the order of their names' SHA-256.

    So the first of them, which pictures show, are of several classes as a rule.
    """
    folders, files = _listed(folder)
    lowered = {path.name.lower() for path in folders}
    if not _are_splits(folders) and "train" in lowered and lowered & _OTHER_SPLITS:
        raise RunFailed(
            f"{folder}: holds {' and '.join(path.name for path in folders)}; splits are two "
            "sub-folders, train and test, and classes have other names."
        )
    if not _are_splits(folders):
        return _divided(folder, _images(folder))
    if files:
        raise RunFailed(_mix(folder, files[0], folders[0]))
    train, test = _images(folder / "train"), _images(folder / "test")
    names = [{path.name for path in _listed(split)[0]} for split in folders]
    if odd := sorted(names[0] ^ names[1]):
        raise RunFailed(
            f"{folder}: the class '{odd[0]}' is in only one of train and test; give both the same "
            "sub-folders."
        )
    for name, images in (("train", train), ("test", test)):
        if len(images) < FEWEST:
            raise RunFailed(f"{folder / name}: holds one image; give {FEWEST} or more.")
    return train, test


def _divided(folder: Path, images: list[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """One image in seven is for testing: the first."""
    if len(images) < 2 * FEWEST:
        counted = "one image" if len(images) == 1 else f"{len(images)} images"
        raise RunFailed(
            f"{folder}: holds {counted}; give {2 * FEWEST} or more, to train on and to test."
        )

    tested = max(FEWEST, len(images) // TEST_SHARE)
    return images[tested:], images[:tested]


def _images(folder: Path) -> list[Labelled]:
    """The images of a folder, or of its classes, in the order of their names' SHA-256."""
    folders, files = _listed(folder)
    if folders and files:
        raise RunFailed(_mix(folder, files[0], folders[0]))
    if len(folders) > MOST_CLASSES:
        raise RunFailed(
            f"{folder}: holds {len(folders)} sub-folders, its classes; {MOST_CLASSES} are the most."
        )
    found = [(path, 0) for path in files]
    for label, one in enumerate(folders):
        deeper, files = _listed(one)
        if deeper:
            raise RunFailed(
                f"{deeper[0]}: a folder within a class; put the images directly into {one}."
            )
        if not files:
            raise RunFailed(f"{one}: holds no image; put some into it, or remove it.")
        found += [(path, label) for path in files]
    if not found:
        raise RunFailed(f"{folder}: holds no image; put some into it, or into sub-folders of it.")

    def place(image: Labelled) -> bytes:
        name = os.fsencode(image[0].relative_to(folder).as_posix())
        return hashlib.sha256(name).digest()

    return sorted(found, key=place)


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """What a person put into a folder, in the order of names: folders and all else."""
    paths = sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.lower() not in _OF_SYSTEMS
    )
    return [path for path in paths if path.is_dir()], [path for path in paths if not path.is_dir()]


def _are_splits(folders: list[Path]) -> bool:
    return [path.name for path in folders] == ["test", "train"]


def _mix(folder: Path, file: Path, one: Path) -> str:
    return (
        f"{folder}: holds both files ({file.name}) and sub-folders ({one.name}); put every image "
        "into a sub-folder, its class, or none."
    )


def _read(path: Path) -> Bytes:
    """An image's pixels: (H, W) if it is grey, (H, W, 3) if it has colours."""
    if not path.is_file():
        raise RunFailed(f"{path}: no file that can be read; remove it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if wrong := _wrong_kind(image):
                    raise RunFailed(f"{path}: {wrong}")
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(upright.convert("L" if image.mode in ("L", "1") else "RGB"))
    except RunFailed:
        raise
    except UnidentifiedImageError:
        raise RunFailed(f"{path}: not an image that can be read; remove it.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise RunFailed(
            f"{path}: has over {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller, or remove it."
        ) from None
    except Exception as error:  # Pillow's decoders raise whatever damaged content leads them to
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise RunFailed(f"{path}: cannot be read ({reason}); mend or remove it.") from None
    return pixels


def _wrong_kind(image: Image.Image) -> str:
    """Why an image is of no kind that is taken; empty if it is. Its pixels are not looked at."""
    if image.has_transparency_data:
        return "has transparency; save it without, on a background."
    if image.mode.startswith(("I", "F")) or any(
        ";16" in str(tile) for tile in getattr(image, "tile", ())
    ):
        return "has more than 8 bits a channel; save it with 8."
    if image.mode not in ("1", "L", "P", "RGB"):
        return f"is of the kind {image.mode}; save it as grey or RGB."
    if min(image.size) < SMALLEST:
        return (
            f"is {_shown(image.size[::-1])}; the smallest that the models take are "
            f"{SMALLEST} x {SMALLEST}."
        )
    return ""


def _difference(path: Path, shape: tuple[int, ...], example: Path, first: tuple[int, ...]) -> str:
    if shape[:2] != first[:2]:
        return (
            f"{path}: is {_shown(shape)}, {example} {_shown(first)}; bring all images to one size."
        )
    kinds = ("grey", "in colour") if len(shape) == 2 else ("in colour", "grey")
    return f"{path}: is {kinds[0]}, {example} {kinds[1]}; save all images as the one or the other."


def _shown(shape: tuple[int, ...]) -> str:
    height, width = shape[:2]
    return f"{width} pixels wide and {height} high"


def idx_header(*shape: int) -> bytes:
    """What stands before the bytes of an IDX file of that shape."""
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()


def to_idx(array: Bytes) -> bytes:
    """An array as the content of an IDX file."""
    return idx_header(*array.shape) + array.tobytes()
