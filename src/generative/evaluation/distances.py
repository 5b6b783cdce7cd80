"""Distances between two sets: MMD of images, Fréchet of features."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics.pairwise import rbf_kernel

Array = npt.NDArray[np.floating[Any]]


def squared_mmd(first: Array, second: Array, width: float) -> float:
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


def frechet_distance(first: Array, second: Array) -> float:
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


def _root(covariance: Array) -> Array:
    """The symmetric square root of a covariance, (D, D)."""
    values, vectors = np.linalg.eigh(covariance)
    root: Array = vectors * np.sqrt(values.clip(0)) @ vectors.T
    return root
