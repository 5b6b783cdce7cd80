"""The stage that gets the data: a run too, of where they came from and what they hold."""

import numpy as np

from generative.config import Params
from generative.data.download import download
from generative.data.idx import read_idx
from generative.data.mnist import DATA_DIR, TEST, TRAIN, Data
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
        run.tag(source=download(data))
        for split, names in (("Train", TRAIN), ("Test", TEST)):
            images = read_idx(DATA_DIR / names.images, dimensions=3)[:, None] / np.float32(255)
            labels = read_idx(DATA_DIR / names.labels, dimensions=1)
            run.log({f"data/{split} images": len(images)})
            rows = [(str(n), images[labels == n][:_PICTURED]) for n in np.unique(labels)]
            run.image(f"{split} images by class", png(image_rows(rows)))
