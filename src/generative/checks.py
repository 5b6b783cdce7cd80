"""Are files of images right, and do blocks of params.yaml go together?

Each check raises UserError, in a sentence, if not (`check_finite` RunFailed). None decides a
result.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from generative.core.config import LAST
from generative.errors import RunFailed, UserError

if TYPE_CHECKING:
    from generative.core.compute import Compute
    from generative.core.model import ModelConfig

SMALLEST = 8  # pixels, a side of an image

Bytes = npt.NDArray[np.uint8]


def check_choice(
    name: str, config: "ModelConfig", losses: tuple[str, ...], validation: int
) -> None:
    """Can an epoch be chosen as the block `name` says, with `validation` images kept apart?"""
    keep = config.keep
    splits = ("Train", "Validation") if validation else ("Train",)
    known = [LAST, *(f"{split}/{loss}" for split in splits for loss in losses)]
    if keep == LAST and config.patience:
        first = f"set {name}.keep to {known[-1]} or " if losses else "set "
        raise UserError(
            f"params.yaml: {name}.patience is {config.patience}, but {name}.keep is last, which "
            f"looks at no loss; {first}{name}.patience to 0."
        )
    if keep.startswith("Test/"):
        right = "last, or a Train/ or Validation/ loss" if losses else LAST
        raise UserError(
            f"params.yaml: {name}.keep is '{keep}', but test images must not choose the model; it "
            f"should be {right}."
        )
    if keep.startswith("Validation/") and losses and not validation:
        raise UserError(
            f"params.yaml: {name}.keep is '{keep}', but split.validation is 0; set it to how many "
            "training images to keep apart, as 5000."
        )
    if keep not in known:
        right = " or ".join(filter(None, [", ".join(known[:-1]), known[-1]]))
        raise UserError(f"params.yaml: {name}.keep is '{keep}'; it should be {right}.")


def check_batch_size(name: str, config: "ModelConfig", images: int) -> None:
    """Is a batch no larger than that many training images?"""
    if config.batch_size > images:
        raise UserError(
            f"params.yaml: {name}.batch_size is {config.batch_size}, more than the {images} "
            f"training images; make it {images} or less."
        )


def check_portable(name: str, config: "ModelConfig", compute: "Compute") -> None:
    """Is training as the block `name` says portable, where `compute` asks for it?"""
    if compute.portable and config.optimizer != "adam":
        raise UserError(
            f"params.yaml: compute.portable is true, but {name}.optimizer is {config.optimizer}, "
            f"whose square roots differ between processors; set {name}.optimizer to adam, or "
            "compute.portable to false."
        )


def check_compute(compute: "Compute") -> None:
    """Do the keys of the block go together?"""
    if compute.portable and (compute.device.startswith("cuda") or compute.precision != "float32"):
        raise UserError(
            f"params.yaml: compute.portable is true, but compute.device is {compute.device} and "
            f"compute.precision {compute.precision}; only the CPU's float32 is portable: set them "
            "to cpu and float32, or portable to false."
        )


def check_finite(model: str, epoch: int, losses: Mapping[str, Sequence[float]]) -> None:
    """Is each loss of each step a number? Raises RunFailed if not."""
    for name, values in losses.items():
        for number, value in enumerate(values, start=1):
            if not math.isfinite(value):
                raise RunFailed(
                    f"training of '{model}' failed: {name} became {value} in epoch {epoch}, "
                    f"step {number}; try a smaller {model}.lr in params.yaml."
                )


def check_idx(path: Path, content: bytes, dimensions: int) -> None:
    """Is that content an IDX file of unsigned bytes with that many dimensions, all of it?"""
    kind = "labels" if dimensions == 1 else "images"
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(
            f"{path}: not an IDX file of {kind} (its first bytes are {content[:4].hex(' ')}, "
            f"should be 00 00 08 {dimensions:02x}); {refetch(path)}"
        )
    header = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:header].ljust(4 * dimensions, b"\0"), ">u4").tolist()
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise UserError(
            f"{path}: has {len(content):,} bytes where its header promises {expected:,}; "
            f"{refetch(path)}"
        )


def check_split(path: Path, images: Bytes, labels_path: Path, labels: Bytes | None) -> None:
    """Are there images in the file at `path`, and as many labels in theirs if there are any?"""
    if len(images) == 0 or (labels is not None and len(images) != len(labels)):
        counted = "no labels" if labels is None else f"{labels_path.name} {len(labels):,} labels"
        raise UserError(
            f"{path} holds {len(images):,} images but {counted}: files are swapped or from "
            f"different sets; {refetch(path)}"
        )


def check_set(
    paths: Sequence[Path], images: Sequence[Bytes], labels: Sequence[Bytes | None]
) -> None:
    """Are the images of both splits, (N, C, H, W), in the files `paths`, of one kind and size?"""
    for path, pixels in zip(paths, images, strict=True):
        if pixels.shape[1] not in (1, 3):
            raise UserError(
                f"{path}: images have {pixels.shape[1]} channels; should be 1 (grey) or 3 (red, "
                "green and blue)."
            )
        if min(pixels.shape[2:]) < SMALLEST:
            raise UserError(
                f"{path}: images are {_size(pixels)}; the smallest that the models take are "
                f"{SMALLEST} x {SMALLEST}."
            )
    train, test = images
    if train.shape[1:] != test.shape[1:]:
        raise UserError(
            f"{paths[1]}: images are {_size(test)}, those of {paths[0].name} {_size(train)}; both "
            "should be the same."
        )
    if (labels[0] is None) != (labels[1] is None):
        folder = paths[0].parent
        raise UserError(f"{folder}: one split has labels, the other none; give both, or none.")


def _size(images: Bytes) -> str:
    channels, height, width = images.shape[1:]
    colour = "" if channels == 1 else f" in {channels} channels"
    return f"{height} x {width} pixels{colour}"


def refetch(path: Path) -> str:
    """What to do about a file that is not right."""
    return f"delete {path.parent} and run 'dvc repro download-mnist'."
