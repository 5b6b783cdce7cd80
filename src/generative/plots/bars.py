"""Pictures of how much there is of each kind: numbers in, pixels out."""

from collections.abc import Mapping

import numpy as np
from matplotlib.ticker import PercentFormatter

from generative.plots.image_grids import Pixels
from generative.plots.style import COLOURS, drawn, new_plot

_NAMED = 20  # classes at most that have room for their names


def class_bars(title: str, shares: Mapping[str, Mapping[int, float]]) -> Pixels:
    """How much of each set is of each class, 0 to 1: a group of bars a class, a colour a set."""
    figure = new_plot(9, 3.6)
    axes = figure.subplots()
    classes = [*next(iter(shares.values()))]
    places, width = np.arange(len(classes)), 0.8 / len(shares)
    for number, (name, of_class) in enumerate(shares.items()):
        left = places - 0.4 + number * width
        colour = COLOURS[(number - 1) % len(COLOURS)]  # black, the last, is the first set's
        heights = [of_class[label] for label in classes]
        axes.bar(left, heights, width, align="edge", color=colour, label=name)
    named = slice(None, None, -(-len(classes) // _NAMED))
    axes.set_xticks(places[named], [str(label) for label in classes[named]])
    axes.set(title=title, xlabel="Class, as a classifier decides", ylabel="Share")
    axes.set_xlim(-0.6, len(classes) - 0.4)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3, axis="y")
    axes.legend()
    return drawn(figure)
