"""How far a model's samples are from real images, and of which classes they are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
from torch import Generator

from generative.core.compute import CPU, generator
from generative.core.images import ImageSet
from generative.core.model import Samples
from generative.evaluation import EvaluationConfig, is_binary, random_subset
from generative.evaluation.classifier import Classifier
from generative.evaluation.probes import Array, pixels_of

Matrix = npt.NDArray[np.floating[Any]]
Shares = Mapping[int, float]
"""How much of a set is of each class, 0 to 1; they add up to 1."""


@dataclass(frozen=True)
class Seen:
    """What a judge, a classifier, makes of real images."""

    judge: Classifier
    features: Array
    """Of the test images that samples are compared with, (N, F)."""
    floor: float
    """Their Fréchet distance from as many training images."""
    shares: Shares
    """Of the classes among all test images, by its decisions."""
    accuracy: float
    """Of its decisions on all test images, 0 to 1."""


@dataclass(frozen=True)
class RealImages:
    """What every model's samples are compared with."""

    pixels: Array
    """Of test images, (N, D)."""
    binary: bool
    """All pixels are black or white."""
    width: float
    """Of the kernel: the median distance of training images."""
    stream: Generator
    """The random stream that samples are drawn from: each model's from a copy of it."""
    floors: Mapping[str, float]
    """The metrics that real images give: what chance alone does."""
    seen: Sequence[Seen]
    """By each judge; empty without classes."""


def real_images(
    data: ImageSet, config: EvaluationConfig, seed: int, judges: Sequence[Classifier]
) -> RealImages:
    """Draw as many test images and training images as there are to be samples, and compare them."""
    count, at_once = config.compared_samples, config.batch_size
    stream = generator(CPU, seed, "evaluate/compared")
    chosen = random_subset(data.test, count, stream)
    train = data.train.subset(random_subset(data.train, count, stream))
    pixels, train_pixels = pixels_of(data.test.subset(chosen)), pixels_of(train)
    width = float(np.median(euclidean_distances(train_pixels[:1000]))) or 1.0  # all are the same
    floors = {"Samples/MMD2 Floor": squared_mmd(train_pixels, pixels, width)}
    seen = []
    test_images, train_images = (split.to_float(slice(None)) for split in (data.test, train))
    for judge in judges:
        assert data.test.labels is not None
        features, decisions = judge.look_at(test_images, at_once)
        right = decisions == data.test.labels.cpu().numpy()
        shares = shares_of(decisions, judge.classes)
        own = features[chosen.cpu().numpy()]
        floor = frechet_distance(judge.look_at(train_images, at_once)[0], own)
        seen.append(Seen(judge, own, floor, shares, float(right.mean())))
    if seen:
        floors["Samples/Classifier Frechet Floor"] = float(np.mean([one.floor for one in seen]))
    return RealImages(pixels, is_binary(data.test), width, stream, floors, seen)


@torch.inference_mode()
def sample_metrics(
    model: Samples, real: RealImages, config: EvaluationConfig
) -> tuple[dict[str, float], Shares]:
    """Samples compared with as many test images; and the shares of the classes among them.

    - `MMD2`: `squared_mmd` on pixels in [0, 1], a sample being its pixels' means or, where images
      are black and white, pixels drawn by these; with a kernel as wide as the median distance of
      training images (Gretton et al., 2012, section 8). It needs no network that was trained.
    - `Classifier Frechet Distance`: `frechet_distance` in the features of this pipeline's own small
      classifiers: the mean over them, and `Deviation`, their standard deviation. It is no published
      FID, whose features are Inception's: compare it within one data set only.
    - `Classes Drawn`: how many classes have a tenth of an even share of the samples, or more.
    - `Class Evenness`: 0, all samples of one class, to 1, as many of each.

    Each `Floor` is the same of training images and test images. Without classes there is the first
    alone, and no shares.
    """
    stream = real.stream.clone_state()
    drawn = model.sample(config.compared_samples, stream)
    if real.binary:
        drawn = (torch.rand(drawn.shape, generator=stream).to(drawn.device) < drawn).float()
    metrics = {"Samples/MMD2": squared_mmd(drawn.flatten(1).cpu().numpy(), real.pixels, real.width)}
    distances, decided = [], []
    for seen in real.seen:
        features, decisions = seen.judge.look_at(drawn, config.batch_size)
        distances.append(frechet_distance(features, seen.features))
        decided.append(shares_of(decisions, seen.judge.classes))
    shares: Shares = mean_shares(decided)
    if shares:
        metrics |= {
            "Samples/Classifier Frechet Distance": float(np.mean(distances)),
            "Samples/Classifier Frechet Deviation": stdev(distances) if len(distances) > 1 else 0.0,
            "Samples/Classes Drawn": float(classes_drawn(shares)),
            "Samples/Class Evenness": evenness(shares),
        }
    return {**metrics, **real.floors}, shares


def mean_shares(decided: Sequence[Shares]) -> Shares:
    """The mean of what several judges say; empty without judges."""
    classes = decided[0] if decided else ()
    return {label: float(np.mean([shares[label] for shares in decided])) for label in classes}


def shares_of(decisions: npt.NDArray[np.int64], classes: Sequence[int]) -> Shares:
    """How much of the decisions, (N,), is for each of the classes."""
    return {label: float((decisions == label).mean()) for label in classes}


def classes_drawn(shares: Shares) -> int:
    """How many classes have a tenth of an even share, or more."""
    return sum(share >= 0.1 / len(shares) for share in shares.values())


def evenness(shares: Shares) -> float:
    """The entropy of the shares over that of even ones, 0 to 1, of two classes or more."""
    entropy = sum(-share * math.log(share) for share in shares.values() if share)
    return entropy / math.log(len(shares))


def squared_mmd(first: Matrix, second: Matrix, width: float) -> float:
    """The squared maximum mean discrepancy of two sets, (N, D) and (M, D); 0 for equal laws.

    Unbiased, so that it may fall below 0; for a Gaussian kernel exp(-d^2 / (2 width^2)). Gretton et
    al., "A Kernel Two-Sample Test" (2012), equation 3.
    """
    gamma = 1 / (2 * width**2)
    within = 0.0
    for part in (first, second):
        kernel = rbf_kernel(part, gamma=gamma)
        off_diagonal = float(kernel.sum(dtype=np.float64) - np.trace(kernel, dtype=np.float64))
        within += off_diagonal / (len(part) * (len(part) - 1))
    return within - 2 * float(rbf_kernel(first, second, gamma).mean(dtype=np.float64))


def frechet_distance(first: Matrix, second: Matrix) -> float:
    """The squared distance of Gaussians fitted to features, (N, D) and (M, D); 0 for equal ones.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)): Heusel et al., "GANs Trained by a Two Time-Scale
    Update Rule Converge to a Local Nash Equilibrium" (2017), equation 6; in float64. With symmetric
    roots, the last trace is the sum of the singular values of C1^(1/2) C2^(1/2). What it is a
    distance of, the features decide: it is the published FID with Inception's alone.
    """
    means = [part.mean(0, dtype=np.float64) for part in (first, second)]
    covariances = [np.cov(part, rowvar=False, dtype=np.float64) for part in (first, second)]
    one, other = (_root(covariance) for covariance in covariances)
    traces = sum(float(np.trace(covariance)) for covariance in covariances)
    shared = float(np.linalg.norm(one @ other, "nuc"))
    return float(np.square(means[0] - means[1]).sum()) + traces - 2 * shared


def _root(covariance: Matrix) -> Matrix:
    """The symmetric square root of a covariance, (D, D)."""
    values, vectors = np.linalg.eigh(covariance)
    root: Matrix = vectors * np.sqrt(values.clip(0)) @ vectors.T
    return root
