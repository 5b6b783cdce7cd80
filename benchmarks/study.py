"""The tables and pictures of docs/study.md, from the experiments of a repository without others.

`python benchmarks/study.py FOLDER` prints the tables and writes study.png, study-samples.png and
study-plane.png there.
"""

import io
import sys
from pathlib import Path
from typing import Any

import dvc.api
import numpy as np
from PIL import Image

from generative.plots.charts import COLOURS, drawn, new_plot
from generative.plots.image_grids import png

Row = dict[str, Any]

VAE = {
    "ELBO": "Unnormalised Likelihood/ELBO",
    "± (95 %)": "Unnormalised Likelihood/ELBO Interval",
    "bound, K = 500": "Unnormalised Likelihood/IWAE Bound",
    "KL": "Unnormalised Likelihood/KL",
    "active units": "Unnormalised Likelihood/Active Units",
    "SSIM": "Reconstruction/SSIM",
    "probe": "Latents/Probe Accuracy",
    "of PCA": "Latents/Probe of PCA",
    "kNN": "Latents/kNN Accuracy",
    "MMD² (floor {floor:.4f})": "Samples/MMD2",
}
AE = {
    "MSE": "Reconstruction/MSE",
    "SSIM": "Reconstruction/SSIM",
    "denoising MSE at 0.1": "Denoising/MSE at 0.1",
    "at 0.3": "Denoising/MSE at 0.3",
    "at 0.5": "Denoising/MSE at 0.5",
    "probe": "Latents/Probe Accuracy",
    "of PCA": "Latents/Probe of PCA",
    "kNN": "Latents/kNN Accuracy",
}


def main(folder: Path) -> None:
    """Print the tables and write the pictures."""
    rows = [row for row in dvc.api.exp_show() if row["Experiment"]]
    default = (4, "noisy")
    vaes = {row["vae.latent_dim"]: row for row in rows if ae_of(row) == default}
    aes = {ae_of(row): row for row in rows if row["vae.latent_dim"] == 200}
    vaes, aes = dict(sorted(vaes.items())), dict(sorted(aes.items()))
    print_table("| latent_dim |", VAE, "vae", {f"{dim:g}": row for dim, row in vaes.items()})
    print_table("| latent_dim, target |", AE, "ae", {f"{d:g}, {t}": r for (d, t), r in aes.items()})
    (folder / "study.png").write_bytes(png(panels(vaes, aes)))
    pictures = [picture(row, "vae_samples") for row in vaes.values()]
    gap = ((0, 0), (0, 12), (0, 0))
    spaced = [np.pad(part, gap, constant_values=255) for part in pictures]
    joined = np.concatenate(spaced, axis=1)[::2, ::2]
    (folder / "study-samples.png").write_bytes(png(joined))
    (folder / "study-plane.png").write_bytes(png(picture(vaes[2], "vae_plane")))


def ae_of(row: Row) -> tuple[float, str]:
    """The autoencoder's setting."""
    return row["ae.latent_dim"], row["ae.target"]


def print_table(first: str, columns: dict[str, str], model: str, rows: dict[str, Row]) -> None:
    """A Markdown table, a row an experiment."""
    floor = next(iter(rows.values()))["vae.Samples/MMD2 Floor"]
    print(first, *(f"{name.format(floor=floor)} |" for name in columns))
    print("|", *("--- |" for _ in range(len(columns) + 1)))
    for name, row in rows.items():
        print(f"| {name} |", *(f"{row[f'{model}.{key}']:.4g} |" for key in columns.values()))
    print()


def panels(vaes: dict[float, Row], aes: dict[tuple[float, str], Row]) -> Any:
    """Figures against the number of latent dimensions."""
    figure = new_plot(11, 7)
    likelihood, accuracy, samples, denoising = figure.subplots(2, 2).flat
    sizes = list(vaes)
    elbos = np.array([row["vae.Unnormalised Likelihood/ELBO"] for row in vaes.values()])
    bounds = np.array([row["vae.Unnormalised Likelihood/IWAE Bound"] for row in vaes.values()])
    likelihood.plot(sizes, bounds, "o-", label="IWAE bound, K = 500", color=COLOURS[0])
    likelihood.plot(sizes, elbos, "o-", label="ELBO", color=COLOURS[1])
    label(likelihood, "VAE: ELBO and bound", "Nats an image")
    for number, (name, key) in enumerate(
        (("VAE latents", "Probe Accuracy"), ("PCA of the same size", "Probe of PCA"))
    ):
        values = [row[f"vae.Latents/{key}"] for row in vaes.values()]
        accuracy.plot(sizes, values, "o-", label=name, color=COLOURS[number])
    for number, target in enumerate(("noisy", "clean"), start=2):
        found = {dim: row for (dim, aim), row in aes.items() if aim == target}
        values = [row["ae.Latents/Probe Accuracy"] for row in found.values()]
        accuracy.plot(list(found), values, "s--", label=f"AE, {target}", color=COLOURS[number])
        errors = [row["ae.Denoising/MSE at 0.3"] for row in found.values()]
        denoising.plot(list(found), errors, "s--", label=f"AE, {target}", color=COLOURS[number])
    label(accuracy, "Linear probe of the latents", "Accuracy")
    values = [row["vae.Samples/MMD2"] for row in vaes.values()]
    samples.plot(sizes, values, "o-", label="VAE samples", color=COLOURS[0])
    floor = [row["vae.Samples/MMD2 Floor"] for row in vaes.values()]
    samples.plot(sizes, floor, "--", label="training images (floor)", color=COLOURS[6])
    samples.set_ylim(bottom=0)
    label(samples, "Samples against test images", "Squared MMD")
    label(denoising, "Denoising, noise of 0.3", "Squared error a pixel")
    return drawn(figure)


def label(axes: Any, title: str, y: str) -> None:
    """What every panel has."""
    axes.set_title(title)
    axes.set_xscale("log")
    sizes = sorted({x for line in axes.lines for x in line.get_xdata()})
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("Latent dimensions")
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend()


def picture(row: Row, name: str) -> Any:
    """A picture that an experiment made, from DVC's cache or, of older ones, from Git."""
    content = dvc.api.read(f"metrics/pictures/{name}.png", rev=row["rev"], mode="rb")
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
