"""How far two sets of images are apart, with no features between."""

import numpy as np
from sklearn.metrics.pairwise import rbf_kernel

from generative.evaluation.probes import Array


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
