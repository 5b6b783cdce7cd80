"""What all drawn figures share: size, colours, and how they become pixels."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from generative.plots.image_grids import Pixels

# Okabe and Ito's, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# Tol's "muted", likewise, with black in place of its pale grey: one a class.
CLASSES = (
    *("#CC6677", "#332288", "#DDCC77", "#117733", "#88CCEE"),
    *("#882255", "#44AA99", "#999933", "#AA4499", "#000000"),
)


def new_plot(width: float, height: float) -> Figure:
    """An empty plot, in hundreds of pixels; drawn on white, so that dark pages show it too."""
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def drawn(figure: Figure) -> Pixels:
    """Its pixels; equal plots give equal pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    return np.asarray(pixels)[..., :3].copy()
