"""The stage that gets the data: a run too, of where they came from and what they hold."""

import numpy as np
import numpy.typing as npt

from generative.checks import Bytes
from generative.core.config import Data, Params
from generative.core.idx import read_set
from generative.data.download import check_source, download
from generative.data.sources import class_names
from generative.plots.image_grids import image_rows, png
from runrecord import start_run
from runrecord.safety.text import printable

_PICTURED = 12  # images of each class
_CLASSES = 20  # so many of them


def download_data() -> None:
    """Bring the data into place.

    Raises:
        UserError: before any work, for bad input.
        RunFailed: no source had them, or one's own images are not as they should be.
        OSError: they cannot be written.
    """
    data = Params().section("data", Data)
    check_source(data)
    with start_run("download-mnist") as run:
        run.tag(source=download(data, data.directory))
        if names := class_names(data):
            classes = printable(", ".join(f"{label} {name}" for label, name in enumerate(names)))
            print(f"classes: {classes}")
            run.tag(classes=classes)
        for name, (pixels, labels) in zip(("Train", "Test"), read_set(data.directory), strict=True):
            count, channels, height, width = pixels.shape
            kind = "grey" if channels == 1 else "in colour"
            print(f"{name.lower()}: {count:,} images, {height} x {width} pixels, {kind}")
            run.log({f"data/{name} images": len(pixels)})
            rows = [("", _pictured(pixels))]
            if labels is not None:
                rows = [
                    (str(n), _pictured(pixels[labels == n])) for n in np.unique(labels)[:_CLASSES]
                ]
            run.image(f"{name} images by class", png(image_rows(rows)))


def _pictured(images: Bytes) -> npt.NDArray[np.float32]:
    return images[:_PICTURED].astype(np.float32) / np.float32(255)
