"""Pictures of curves: numbers in, pixels out."""

from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from generative.plots.image_grids import Pixels
from generative.plots.style import COLOURS, drawn, new_plot


def loss_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]], units: Mapping[str, str]
) -> Pixels:
    """Each model's total loss an epoch, on train and test: one panel a model.

    `histories` are, by model, the columns `epoch`, `Train/Total Loss` and `Test/Total Loss`;
    `units`, by model, what its total loss is.
    """
    figure = new_plot(5 * len(histories), 3.6)
    panels = figure.subplots(1, len(histories), squeeze=False)[0]
    for axes, (name, columns) in zip(panels, histories.items(), strict=True):
        for split, colour, style in zip(("Train", "Test"), COLOURS, ("-", "--"), strict=False):
            values = columns[f"{split}/Total Loss"]
            axes.plot(columns["epoch"], values, style, color=colour, label=split)
        title = f"Total loss of the {name.upper()}"
        axes.set(title=title, xlabel="Epoch", ylabel=units[name])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return drawn(figure)
