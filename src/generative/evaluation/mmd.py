"""How far a model's samples are from real images."""

import numpy as np
import torch
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

from generative.data.dataset import ImageSet
from generative.evaluation.config import EvaluationConfig
from generative.evaluation.probes import Array, pixels_of
from generative.models.base import Samples
from generative.rng import generator


@torch.inference_mode()
def sample_metrics(
    model: Samples, data: ImageSet, config: EvaluationConfig, seed: int
) -> dict[str, float]:
    """`MMD2`: squared maximum mean discrepancy of samples and test images; 0 for equal laws.

    Unbiased, so that it may fall below 0; on pixels in [0, 1], a sample being its pixels' means;
    Gaussian kernel, as wide as the median distance of training images. Gretton et al., "A Kernel
    Two-Sample Test" (2012), equation 3 and section 8. It needs no network that was trained on other
    images, unlike FID and KID. `MMD2 Floor` is the same of training images and test images: what
    chance alone gives.
    """
    count = config.compared_samples
    device = data.test.images.device
    stream = generator(device, seed, "evaluate/compared")
    test = pixels_of(data.test.subset(data.test.random_subset(count, stream)))
    train = pixels_of(data.train.subset(data.train.random_subset(count, stream)))
    drawn = model.sample(count, stream)
    width = float(np.median(euclidean_distances(train[:1000])))
    return {
        "Samples/MMD2": squared_mmd(drawn.flatten(1).cpu().numpy(), test, width),
        "Samples/MMD2 Floor": squared_mmd(train, test, width),
    }


def squared_mmd(first: Array, second: Array, width: float) -> float:
    """The unbiased estimate for a Gaussian kernel exp(-d^2 / (2 width^2)); (N, D) and (M, D)."""
    gamma = 1 / (2 * width**2)
    within = 0.0
    for part in (first, second):
        kernel = rbf_kernel(part, gamma=gamma)
        off_diagonal = float(kernel.sum(dtype=np.float64) - np.trace(kernel, dtype=np.float64))
        within += off_diagonal / (len(part) * (len(part) - 1))
    return within - 2 * float(rbf_kernel(first, second, gamma).mean(dtype=np.float64))
