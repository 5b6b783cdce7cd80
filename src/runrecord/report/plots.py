"""Pictures: several runs' curves."""

import io
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle, product

from runrecord.errors import require

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart by colour-blind readers too."""

_STYLES = ("-", "--", ":", "-.")


def curves_png(metrics: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """A panel a metric, in it a line a run.

    `metrics` has by metric, then by the run's label, the values in every epoch from 1 on.
    """
    require("matplotlib", "matplotlib", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.1 * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, runs) in zip(panels, metrics.items(), strict=False):
        looks = cycle(product(_STYLES, _COLOURS))
        for (style, colour), (label, values) in zip(looks, runs.items(), strict=False):
            epochs = range(1, len(values) + 1)
            marker = "o" if len(values) == 1 else None
            axes.plot(epochs, values, style, color=colour, label=label, marker=marker)
        axes.set_title(name, parse_math=False)
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        for text in axes.legend().get_texts():
            text.set_parse_math(False)
    for axes in list(panels):
        axes.set_visible(False)
    file = io.BytesIO()
    with warnings.catch_warnings():  # of letters that its font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, format="png")
    return file.getvalue()
