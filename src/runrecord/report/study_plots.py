"""A study in pictures, as Optuna draws them."""

import io
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

from runrecord.sweep.study import Searcher
from runrecord.sweep.study_record import Study


def plots(study: Study) -> Iterator[tuple[str, bytes]]:
    """A title and a PNG each: the metric by trial, against each param, and which param matters.

    None without Matplotlib; no importance where a trial or a value is all that there is.
    """
    if not find_spec("matplotlib"):
        return
    import matplotlib
    import optuna

    matplotlib.use("agg")
    from optuna.visualization import matplotlib as drawn

    found = Searcher(study.definition, study.trials.values()).optuna
    name = study.definition.metric
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from _drawn(
            "History", lambda: drawn.plot_optimization_history(found, target_name=name)
        )
        for param in study.definition.space:
            yield from _drawn(
                f"{name} against {param}",
                partial(drawn.plot_slice, found, params=[param], target_name=name),
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        yield from _drawn(
            "Importance", lambda: drawn.plot_param_importances(found, evaluator=evaluator)
        )


def _drawn(title: str, draw: Callable[[], Any]) -> Iterator[tuple[str, bytes]]:
    from matplotlib import pyplot

    try:
        draw()
        content = io.BytesIO()
        pyplot.gcf().savefig(content, format="png", bbox_inches="tight")
        yield title, content.getvalue()
    except (ValueError, RuntimeError):
        return  # too few trials to say
    finally:
        pyplot.close("all")
