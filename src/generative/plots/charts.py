"""Charts: numbers in, pixels out."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter

from generative.plots.image_grids import Pixels, joined

Array = npt.NDArray[np.float32]

# Okabe and Ito's, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# Tol's "muted", likewise, with black in place of its pale grey: one a class.
CLASSES = (
    *("#CC6677", "#332288", "#DDCC77", "#117733", "#88CCEE"),
    *("#882255", "#44AA99", "#999933", "#AA4499", "#000000"),
)

_NAMED = 20  # classes at most that have room for their names


def new_plot(width: float, height: float) -> Figure:
    """An empty plot, in hundreds of pixels; drawn on white, so that dark pages show it too."""
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def drawn(figure: Figure) -> Pixels:
    """Its pixels; equal plots give equal pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    return np.asarray(pixels)[..., :3].copy()


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
            points, values = columns["epoch"], columns[f"{split}/{loss}"]
            marker = "." if len(points) == 1 else ""  # of one epoch there is no line
            axes.plot(points, values, style, marker=marker, color=colour, label=label)
        what = losses[0].capitalize() if len(losses) == 1 else "Losses"
        axes.set(title=f"{what} of the {name.upper()}", xlabel="Epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return drawn(figure)


def latent_map(
    title: str, points: Array, labels: npt.NDArray[np.uint8] | None, axes_names: tuple[str, str]
) -> Pixels:
    """Points of a plane, (N, 2), coloured by class; each class's number where its median lies.

    Without labels, (N,), all are of one colour.
    """
    figure = new_plot(6.4, 5.6)
    axes = figure.subplots()
    room = np.ptp(points, axis=0) / 20
    named: list[Array] = []
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=3, color=CLASSES[0], linewidths=0)
    for label in np.unique(labels) if labels is not None else ():
        chosen, colour = points[labels == label], CLASSES[label % len(CLASSES)]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=3, color=colour, linewidths=0, label=str(label))
        middle = np.median(chosen, axis=0)
        if any((np.abs(middle - other) < room).all() for other in named):
            continue  # names would overlap; the legend has this one
        named.append(middle)
        axes.annotate(
            str(label),
            (middle[0], middle[1]),
            ha="center",
            va="center",
            color=colour,
            fontsize=16,
            fontweight="bold",
            path_effects=[withStroke(linewidth=4, foreground="white")],
        )
    axes.set(title=title, xlabel=axes_names[0], ylabel=axes_names[1])
    axes.grid(alpha=0.3)
    if labels is not None and len(np.unique(labels)) <= _NAMED:
        figure.legend(title="Class", loc="outside right center", markerscale=3)
    return drawn(figure)


def decoded_plane(title: str, images: Array, x: Sequence[float], y: Sequence[float]) -> Pixels:
    """Images decoded from a grid of a plane, each where its latents lie.

    Images are (len(y), len(x), C, H, W) in [0, 1]; `x` and `y`, the coordinates, rise evenly.
    """
    pixels = joined(images[::-1]).transpose(1, 2, 0)
    half_x, half_y = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    figure = new_plot(6.8, 7)
    axes = figure.subplots()
    axes.imshow(
        pixels,
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(x[0] - half_x, x[-1] + half_x, y[0] - half_y, y[-1] + half_y),
        aspect="auto",
    )
    axes.set(title=title, xlabel="First latent dimension", ylabel="Second latent dimension")
    return drawn(figure)


def divergence_bars(title: str, divergences: Sequence[float], active: Sequence[bool]) -> Pixels:
    """KL a dimension, in nats, the largest first; the active ones in another colour."""
    figure = new_plot(7, 3.6)
    axes = figure.subplots()
    numbers, values = np.arange(1, len(divergences) + 1), np.asarray(divergences)
    mask = np.asarray(active)
    for label, part, colour in (("Active", mask, COLOURS[0]), ("Inactive", ~mask, COLOURS[1])):
        if part.any():
            label = f"{label}: {part.sum()}"
            axes.bar(numbers[part], values[part], width=0.8, color=colour, label=label)
    axes.set(title=title, xlabel="Latent dimension, by falling KL", ylabel="KL (nats an image)")
    axes.set_xlim(0.4, len(divergences) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, axis="y")
    axes.legend()
    return drawn(figure)
