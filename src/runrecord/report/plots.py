"""Pictures: several runs' curves, and a study as Optuna draws it."""

import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from itertools import cycle, product

from runrecord.errors import require
from runrecord.run.run import Run
from runrecord.sweep.study import Study

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


def log_plots(run: Run, study: Study) -> None:
    """Log the metric by trial, against each param, and which param matters.

    None without Matplotlib; no importance of a single trial or value.
    """
    if not find_spec("matplotlib"):
        return
    import matplotlib
    import optuna

    matplotlib.use("agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as drawn

    found, name = study.optuna, study.definition.metric
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    plots = {"History": partial(drawn.plot_optimization_history, found, target_name=name)}
    for param in study.definition.space:
        against = partial(drawn.plot_slice, found, params=[param], target_name=name)
        plots[f"{name} against {param}"] = against
    plots["Importance"] = partial(drawn.plot_param_importances, found, evaluator=evaluator)
    with warnings.catch_warnings(), pyplot.rc_context({"savefig.bbox": "tight"}):
        warnings.simplefilter("ignore")
        for title, draw in plots.items():
            with suppress(ValueError, RuntimeError):  # too few trials to say
                draw()
                run.figure(title, pyplot.gcf(), step=len(study.trials))
            pyplot.close("all")
