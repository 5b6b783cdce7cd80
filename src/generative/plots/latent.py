"""Pictures of what lies in a latent space: numbers in, pixels out."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from generative.plots.image_grids import Pixels, joined
from generative.plots.style import CLASSES, COLOURS, drawn, new_plot

Array = npt.NDArray[np.float32]

_NAMED = 20  # classes at most that have room in a legend


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
