"""Curves of a metric of several runs: numbers in, a PNG out."""

import io
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too; then the same, dashed.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")


def curves(metrics: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """A panel a metric, in it a line a run.

    Args:
        metrics: by metric, then by the run's label, its value in every epoch from 1 on.
    """
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.1 * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, runs) in zip(panels, metrics.items(), strict=False):
        for number, (label, values) in enumerate(runs.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
            epochs = range(1, len(values) + 1)
            marker = "o" if len(values) == 1 else None
            axes.plot(epochs, values, style, color=colour, label=label, marker=marker)
        axes.set_title(name, parse_math=False)
        axes.set_xlabel("Epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    for axes in list(panels):
        axes.set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
