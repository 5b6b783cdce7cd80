"""Pictures of curves: numbers in, pixels out."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from generative.figures.images import Pixels


def loss_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Pixels:
    """Each model's total loss an epoch, on train and test: one panel a model.

    Args:
        histories: by model, the columns `epoch`, `Train/Total Loss` and `Test/Total Loss`.
    """
    figure = Figure(figsize=(5 * len(histories), 3.6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(histories), squeeze=False)[0]
    for axes, (name, columns) in zip(panels, histories.items(), strict=True):
        # Okabe and Ito's blue and vermilion: told apart by colour-blind readers too.
        for split, colour, style in (("Train", "#0072B2", "-"), ("Test", "#D55E00", "--")):
            values = columns[f"{split}/Total Loss"]
            axes.plot(columns["epoch"], values, style, color=colour, label=split)
        axes.set_title(name.upper())
        axes.set_xlabel("Epoch")
        axes.set_ylabel("Total loss")
        axes.grid(alpha=0.3)
        axes.legend()
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    return np.asarray(pixels)[..., :3].copy()
