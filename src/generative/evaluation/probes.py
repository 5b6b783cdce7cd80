"""What the latents of a model tell of the classes: how well simple classifiers read them."""

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from generative.core.compute import CPU, generator
from generative.core.images import ImageSet, Split
from generative.core.model import Encodes
from generative.evaluation import EvaluationConfig, random_subset

NEIGHBOURS = 5
_FEW_VALUES = 1024  # of an image

Array = npt.NDArray[np.float32]


@torch.inference_mode()
def latents_of(model: Encodes, split: Split, batch_size: int) -> Array:
    """The latents of a split's images, (N, Z)."""
    parts = [model.encode(images) for images in split.batches(batch_size)]
    return torch.cat(parts).float().cpu().numpy()


def pixels_of(split: Split) -> Array:
    """A split's images in [0, 1], (N, D)."""
    return split.to_float(slice(None)).flatten(1).cpu().numpy()


def has_classes(data: ImageSet) -> bool:
    """Are there labels to learn, of two classes or more?"""
    return data.train.labels is not None and bool((data.train.labels != data.train.labels[0]).any())


def baseline_metrics(data: ImageSet, config: EvaluationConfig, seed: int) -> dict[str, float]:
    """`probe_metrics` on the pixels themselves (`of Pixels`): no model has a part in it."""
    if not has_classes(data):
        return {}
    train = _taught(data, config, seed)
    metrics = _accuracies(pixels_of(train), train, pixels_of(data.test), data.test)
    return {f"Latents/{kind} of Pixels": accuracy for kind, accuracy in metrics.items()}


def probe_metrics(
    model: Encodes, latents: Array, data: ImageSet, config: EvaluationConfig, seed: int
) -> dict[str, float]:
    """Test accuracies, 0 to 1, of classifiers trained on `probe_images` training images.

    `Probe` is a linear probe: multinomial logistic regression on standardised features (Alain and
    Bengio, "Understanding intermediate layers using linear classifier probes", 2016). `kNN` is a
    vote of the 5 nearest by Euclidean distance. Both are taught the latents (`Accuracy`), and as
    many principal components of the pixels (`of PCA`). `latents` are the test images', (N, Z).
    Empty for images without classes.
    """
    if not has_classes(data):
        return {}
    train = _taught(data, config, seed)
    pixels, test_pixels = pixels_of(train), pixels_of(data.test)
    # The covariance of many values is slow to take apart, and large.
    solver = "covariance_eigh" if pixels.shape[1] <= _FEW_VALUES else "randomized"
    count = min(latents.shape[1], *pixels.shape)
    pca = PCA(count, svd_solver=solver, random_state=seed % 2**32).fit(pixels)
    own = _accuracies(latents_of(model, train, config.batch_size), train, latents, data.test)
    same = _accuracies(pca.transform(pixels), train, pca.transform(test_pixels), data.test)
    metrics = {f"Latents/{kind} Accuracy": accuracy for kind, accuracy in own.items()}
    return metrics | {f"Latents/{kind} of PCA": accuracy for kind, accuracy in same.items()}


def _taught(data: ImageSet, config: EvaluationConfig, seed: int) -> Split:
    stream = generator(CPU, seed, "evaluate/probes")
    return data.train.subset(random_subset(data.train, config.probe_images, stream))


def _accuracies(inputs: Array, train: Split, test_inputs: Array, test: Split) -> dict[str, float]:
    assert train.labels is not None
    assert test.labels is not None
    labels, test_labels = train.labels.cpu().numpy(), test.labels.cpu().numpy()
    if len(np.unique(labels)) < 2:  # the images drawn to learn from are of one class
        return {}
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(inputs)), algorithm="brute")
    return {
        "Probe": float(probe.fit(inputs, labels).score(test_inputs, test_labels)),
        "kNN": float(neighbours.fit(inputs, labels).score(test_inputs, test_labels)),
    }
