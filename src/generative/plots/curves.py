"""Pictures of curves: numbers in, pixels out."""

from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from generative.plots.image_grids import Pixels
from generative.plots.style import COLOURS, drawn, new_plot


def loss_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]],
    shown: Mapping[str, tuple[str, Sequence[str]]],
) -> Pixels:
    """Each model's losses an epoch, on train and test: one panel a model.

    `histories` are, by model, the columns `epoch`, `Train/LOSS` and `Test/LOSS` of each of its
    losses; `shown`, by model, their unit and which of them to draw.
    """
    figure = new_plot(5 * len(histories), 3.6)
    panels = figure.subplots(1, len(histories), squeeze=False)[0]
    for axes, (name, columns) in zip(panels, histories.items(), strict=True):
        unit, losses = shown[name]
        lines = [(split, loss) for loss in losses for split in ("Train", "Test")]
        for (split, loss), colour in zip(lines, COLOURS, strict=False):
            label = split if len(losses) == 1 else f"{split}: {loss}"
            style = "-" if split == "Train" else "--"
            axes.plot(
                columns["epoch"], columns[f"{split}/{loss}"], style, color=colour, label=label
            )
        title = f"{losses[0] if len(losses) == 1 else 'Losses'} of the {name.upper()}"
        axes.set(title=title.capitalize(), xlabel="Epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return drawn(figure)
