"""Pictures of what models do with test images: models in, pixels out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from generative.core.compute import CPU, generator
from generative.core.images import Split
from generative.core.model import Encodes, Model, Reconstructs, Samples, add_noise
from generative.evaluation import EvaluationConfig
from generative.evaluation.probes import Array
from generative.evaluation.samples import RealImages, mean_shares
from generative.evaluation.suite import Evaluated
from generative.plots.charts import class_bars, decoded_plane, divergence_bars, latent_map
from generative.plots.image_grids import Pixels, image_grid, image_rows

_STEPS = 11  # images in a row that goes from one place to another
_DIMENSIONS = 8  # at most, in a picture of traversals
_LINES = 5  # at most, from one image's latents to another's
_PLANE = 20  # images a side

Rows = list[tuple[str, Tensor]]


@torch.inference_mode()
def pictures_of(
    evaluated: Mapping[str, Evaluated], split: Split, config: EvaluationConfig, seed: int
) -> dict[str, Pixels]:
    """Reconstructions and denoising by all models side by side, then each model's own pictures.

    Of each model those that it can do.
    """
    images = split.to_float(slice(0, config.pictured_images))
    original = [("Original", images)]
    pictures = {}
    if any(found.errors for found in evaluated.values()):
        pictures = {
            "reconstructions": _rows(original + _by_each("Reconstructed", evaluated, images)),
            "denoising": _rows(original + _denoising(evaluated, images, config, seed)),
        }
    for name, found in evaluated.items():
        if found.errors:
            pictures[f"{name}_extremes"] = _extremes(found, split, config)
        if found.latents is not None:
            pictures |= _of_latents(name, found, found.latents, split)
        if isinstance(found.model, Samples):
            stream = generator(CPU, seed, "evaluate/samples")
            samples = _array(found.model.sample(config.samples, stream))
            title = f"Samples from the {_label(found)}"
            pictures[f"{name}_samples"] = image_grid(title, samples, columns=8)
        if found.likelihood:
            pictures[f"{name}_divergences"] = divergence_bars(
                f"KL of each latent dimension of the {_label(found)}",
                found.likelihood.divergences,
                found.likelihood.active,
            )
    return pictures


def class_pictures(evaluated: Mapping[str, Evaluated], real: RealImages) -> dict[str, Pixels]:
    """Of which classes test images and each model's samples are; none without classes."""
    if not real.seen:
        return {}
    shares = {"Test images": mean_shares([seen.shares for seen in real.seen])}
    shares |= {_label(found): found.shares for found in evaluated.values() if found.shares}
    return {"sample_classes": class_bars("Classes of test images and of samples", shares)}


def _of_latents(name: str, found: Evaluated, latents: Array, split: Split) -> dict[str, Pixels]:
    pictures = {}
    if rows := _interpolation(found, latents, split):
        pictures[f"{name}_interpolation"] = _rows(rows)
    pictures[f"{name}_latent_map"] = _map(found, latents, split)
    if latents.shape[1] == 2:
        pictures[f"{name}_plane"] = _plane(found, latents)
    pictures[f"{name}_traversals"] = _traversals(found, latents)
    return pictures


def _by_each(done: str, evaluated: Mapping[str, Evaluated], images: Tensor) -> Rows:
    """The same images reconstructed by each model."""
    return [
        (f"{done} by the {_label(found)}", _means(found.model, images))
        for found in evaluated.values()
        if found.errors
    ]


def _denoising(
    evaluated: Mapping[str, Evaluated], images: Tensor, config: EvaluationConfig, seed: int
) -> Rows:
    rows = []
    for factor in config.noise_factors:
        rng = generator(CPU, seed, f"evaluate/noise/{factor:g}")
        noisy = add_noise(images, factor, rng)
        rows.append((f"Noisy, standard deviation {factor:g}", noisy))
        rows += _by_each("Denoised", evaluated, noisy)
    return rows


def _extremes(found: Evaluated, split: Split, config: EvaluationConfig) -> Pixels:
    errors = found.errors["Reconstruction/MSE"]
    order = errors.argsort(stable=True)
    count = config.pictured_images
    rows = []
    for kind, index in (("Best", order[:count]), ("Worst", order[-count:].flip(0))):
        images = split.to_float(index)
        mse = f"MSE {errors[index[0]].item():.4f} to {errors[index[-1]].item():.4f}"
        rows += [
            (f"{kind} reconstructions: original", images),
            (f"by the {_label(found)}, {mse}", _means(found.model, images)),
        ]
    return _rows(rows)


def _traversals(found: Evaluated, test_latents: Array) -> Pixels:
    """The mean code, one dimension at a time taken through what test latents are there."""
    mean = test_latents.mean(0)
    rows = []
    for dimension in _order(found, test_latents)[:_DIMENSIONS]:
        low, high = np.quantile(test_latents[:, dimension], (0.01, 0.99))
        latents = np.tile(mean, (_STEPS, 1))
        latents[:, dimension] = np.linspace(low, high, _STEPS)
        title = f"{_label(found)}, latent dimension {dimension}: {low:.2f} to {high:.2f}"
        rows.append((title, _decoded(found.model, latents)))
    return _rows(rows)


def _interpolation(found: Evaluated, test_latents: Array, split: Split) -> Rows:
    """Straight lines between the latents of the first test images of two classes.

    Without labels, of the first test image and the second, and so on.
    """
    if split.labels is None:
        names, places = ["one"] * 2 * _LINES, np.arange(len(split))
    else:
        classes, places = np.unique(split.labels.cpu().numpy(), return_index=True)
        names = [f"a {label}" for label in classes]
    parts = torch.linspace(0, 1, _STEPS).numpy()[:, None]
    rows = []
    for first in range(0, min(2 * _LINES, len(places)) - 1, 2):
        start, end = test_latents[places[first]], test_latents[places[first + 1]]
        latents = (1 - parts) * start + parts * end
        title = f"{_label(found)}: from {names[first]} to {names[first + 1]}"
        rows.append((title, _decoded(found.model, latents)))
    return rows


def _map(found: Evaluated, latents: Array, split: Split) -> Pixels:
    labels = None if split.labels is None else split.labels.cpu().numpy()
    title = f"Test images in the latent space of the {_label(found)}"
    dimensions = latents.shape[1]
    names = ("First latent dimension", "Second latent dimension")
    if dimensions == 1:
        latents, names = np.pad(latents, ((0, 0), (0, 1))), ("Latent dimension", "")
    elif dimensions > 2:
        with np.errstate(invalid="ignore"):  # latents that are all the same have no variance
            pca = PCA(2, svd_solver="covariance_eigh").fit(latents)
        latents = pca.transform(latents)
        shares = np.nan_to_num(pca.explained_variance_ratio_)
        first, second = (f"{100 * share:.0f} %" for share in shares)
        title += f" ({dimensions} dimensions)"
        names = (
            f"First principal component ({first} of the variance)",
            f"Second principal component ({second} of the variance)",
        )
    return latent_map(title, latents, labels, names)


def _plane(found: Evaluated, test_latents: Array) -> Pixels:
    low, high = np.quantile(test_latents, (0.01, 0.99), axis=0)
    x, y = np.linspace(low, high, _PLANE).T
    latents = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)
    images = _array(_decoded(found.model, latents))
    images = images.reshape(_PLANE, _PLANE, *images.shape[1:])
    title = f"The latent plane of the {_label(found)}, decoded"
    return decoded_plane(title, images, x.tolist(), y.tolist())


def _label(found: Evaluated) -> str:
    return found.model.name.upper()


def _order(found: Evaluated, latents: Array) -> list[int]:
    """Its latent dimensions, those that tell most first: by KL, else by variance."""
    if found.likelihood:
        return found.likelihood.order
    order: list[int] = np.argsort(-latents.var(0), kind="stable").tolist()
    return order


def _decoded(model: Model[Any], latents: npt.NDArray[np.floating[Any]]) -> Tensor:
    assert isinstance(model, Encodes)
    device = next(model.parameters()).device
    return torch.sigmoid(model.decode(torch.tensor(latents, dtype=torch.float32, device=device)))


def _means(model: Model[Any], images: Tensor) -> Tensor:
    assert isinstance(model, Reconstructs)
    return torch.sigmoid(model.reconstruct(images))


def _rows(rows: Rows) -> Pixels:
    return image_rows([(title, _array(images)) for title, images in rows])


def _array(images: Tensor) -> npt.NDArray[np.float32]:
    return images.float().cpu().numpy()
