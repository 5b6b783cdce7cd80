"""Pictures of several runs' curves: numbers in, pixels out."""

from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from generative.figures.canvas import COLOURS, STYLES, drawn, new_figure
from generative.figures.images import Pixels


def runs_curves(metrics: Mapping[str, Mapping[str, Sequence[float]]]) -> Pixels:
    """A panel a metric, in it a line a run.

    Args:
        metrics: by metric, then by the run's label, its value in every epoch from 1 on.
    """
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = new_figure(5.5 * columns, 3.1 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, runs) in zip(panels, metrics.items(), strict=False):
        for number, (label, values) in enumerate(runs.items()):
            colour = COLOURS[number % len(COLOURS)]
            style = STYLES[number // len(COLOURS) % len(STYLES)]
            epochs = range(1, len(values) + 1)
            marker = "o" if len(values) == 1 else None
            axes.plot(epochs, values, style, color=colour, label=label, marker=marker)
        axes.set_title(name, parse_math=False)
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    for axes in list(panels):
        axes.set_visible(False)
    return drawn(figure)
