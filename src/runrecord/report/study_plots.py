"""A study in pictures, as Optuna draws them."""

import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from runrecord.run.run import Run
from runrecord.sweep.study import Study


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
    plots: dict[str, Callable[[], object]] = {
        "History": lambda: drawn.plot_optimization_history(found, target_name=name),
        **{
            f"{name} against {param}": partial(
                drawn.plot_slice, found, params=[param], target_name=name
            )
            for param in study.definition.space
        },
        "Importance": lambda: drawn.plot_param_importances(found, evaluator=evaluator),
    }
    with warnings.catch_warnings(), pyplot.rc_context({"savefig.bbox": "tight"}):
        warnings.simplefilter("ignore")
        for title, draw in plots.items():
            try:
                draw()
                run.figure(title, pyplot.gcf(), step=len(study.trials))
            except (ValueError, RuntimeError):
                continue  # too few trials to say
            finally:
                pyplot.close("all")
