"""The stage that gets the data: a run too, of where they came from and what they hold."""

import numpy as np

from generative.config import Params
from generative.data.config import Data
from generative.data.download import download
from generative.data.idx import SPLITS, read_split
from generative.plots.image_grids import image_rows, png
from runrecord import start_run

_PICTURED = 12  # images of each class


def download_data() -> None:
    """Bring the data into place.

    Raises:
        UserError: before any work, for bad input.
        RunFailed: no source had them.
        OSError: they cannot be written.
    """
    data = Params().section("data", Data)
    with start_run("download-mnist") as run:
        run.tag(source=download(data, data.directory))
        for name, split in zip(("Train", "Test"), SPLITS, strict=True):
            pixels, labels = read_split(data.directory, split)
            run.log({f"data/{name} images": len(pixels)})
            images = pixels.astype(np.float32) / np.float32(255)
            rows = [("", images[:_PICTURED])]
            if labels is not None:
                rows = [(str(n), images[labels == n][:_PICTURED]) for n in np.unique(labels)]
            run.image(f"{name} images by class", png(image_rows(rows)))
