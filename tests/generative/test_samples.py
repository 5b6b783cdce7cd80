"""Samples against real images: the distance in a classifier's features, and which classes."""

import statistics

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from workspaces import SAMPLE

from generative.core.images import ImageSet, Split, load_images
from generative.core.model import Samples, add_noise
from generative.evaluation.classifier import Classifier, train_classifier
from generative.evaluation.model_pictures import class_pictures
from generative.evaluation.probes import has_classes
from generative.evaluation.samples import (
    classes_drawn,
    evenness,
    frechet_distance,
    mean_shares,
    real_images,
    sample_metrics,
    shares_of,
)
from generative.evaluation.suite import evaluate
from generative.plots.charts import class_bars
from generative.plots.image_grids import png
from models import CPU, evaluation, gan, noise

DISTANCE = "Samples/Classifier Frechet Distance"
FLOOR = "Samples/Classifier Frechet Floor"


@pytest.fixture(scope="module")
def judges(data: ImageSet) -> list[Classifier]:
    return [train_classifier(data.train, 0, number) for number in range(2)]


class Drawing(Samples):
    """Draws images that are given."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def sample(self, count: int, rng: Generator) -> Tensor:
        return self.images[torch.randperm(len(self.images), generator=rng)[:count]]


def metrics_of(images: Tensor, data: ImageSet, *judges: Classifier) -> dict[str, float]:
    real = real_images(data, evaluation(), 0, judges)
    return sample_metrics(Drawing(images), real, evaluation())[0]


def test_the_distance_is_that_of_gaussians_that_are_known() -> None:
    random = np.random.default_rng(0)
    white = random.normal(size=(1000, 3))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    # Axes that commute: |m|^2 and the squared differences of the standard deviations.
    shifted = white * [1, 2, 3] + [1, 0, 2]
    assert frechet_distance(white, shifted) == pytest.approx(1 + 4 + 0 + 1 + 4)
    # In general by the eigenvalues of C1 C2, which is not symmetric.
    one, other = (random.normal(size=(3, 3)) for _ in range(2))
    product = (one @ one.T) @ (other @ other.T)
    expected = (one**2).sum() + (other**2).sum() - 2 * np.sqrt(np.linalg.eigvals(product)).sum()
    assert frechet_distance(white @ one.T, white @ other.T) == pytest.approx(expected)

    features = random.normal(size=(5, 20)).astype(np.float32)
    features[:, 3] = 0
    singular = frechet_distance(features, features[::-1])
    assert singular == pytest.approx(0, abs=1e-5), "of equal sets"


def test_the_distance_rises_with_noise_and_with_classes_that_are_missing(
    data: ImageSet, judges: list[Classifier]
) -> None:
    images, labels = data.train.to_float(slice(None)), data.train.labels
    assert labels is not None
    noisy = [add_noise(images, factor, noise()).clamp(0, 1) for factor in (0.0, 0.3, 0.6)]
    missing = [images[labels < classes] for classes in (7, 4, 1)]
    for worse in (noisy, [images, *missing]):
        found = [metrics_of(part, data, judges[0]) for part in worse]
        distances = [metrics[DISTANCE] for metrics in found]
        assert distances == sorted(distances)
        assert distances[-1] > 3 * distances[0]
        assert len({metrics[FLOOR] for metrics in found}) == 1
    (alone,) = found[-1:]
    assert alone["Samples/Classes Drawn"] <= 2
    assert alone["Samples/Class Evenness"] < 0.2
    assert found[0]["Samples/Classes Drawn"] == 10
    assert found[0]["Samples/Class Evenness"] > 0.9


def test_shares_of_known_decisions() -> None:
    shares = shares_of(np.array([3, 3, 3, 7]), [3, 5, 7])
    assert shares == {3: 0.75, 5: 0.0, 7: 0.25}
    assert classes_drawn(shares) == 2
    assert evenness(shares) == pytest.approx(0.5623351 / np.log(3))
    assert evenness({0: 1.0, 1: 0.0}) == 0
    assert evenness({0: 0.5, 1: 0.5}) == pytest.approx(1)
    assert classes_drawn({0: 0.95, 1: 0.05}) == 2
    assert classes_drawn({0: 0.96, 1: 0.04}) == 1


def test_the_classifier_learns_the_sample_and_repeats_to_the_bit(
    data: ImageSet, judges: list[Classifier]
) -> None:
    (seen,) = real_images(data, evaluation(), 0, judges[:1]).seen
    assert seen.accuracy > 0.7
    assert seen.features.shape == (100, 64)
    again = train_classifier(data.train, 0)
    for name, weight in judges[0].state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        assert not torch.equal(weight, judges[1].state_dict()[name])


def test_several_judges_give_the_mean_of_what_each_says_and_how_far_they_differ(
    data: ImageSet, judges: list[Classifier]
) -> None:
    images = add_noise(data.train.to_float(slice(None)), 0.3, noise())
    each = [metrics_of(images, data, judge) for judge in judges]
    found, without = metrics_of(images, data, *judges), metrics_of(images, data)
    distances = [one[DISTANCE] for one in each]
    assert found[DISTANCE] == pytest.approx(statistics.mean(distances))
    assert found["Samples/Classifier Frechet Deviation"] == pytest.approx(
        statistics.stdev(distances)
    )
    assert found[FLOOR] == pytest.approx(statistics.mean(one[FLOOR] for one in each))
    assert mean_shares([{0: 1.0, 1: 0.0}, {0: 0.5, 1: 0.5}]) == {0: 0.75, 1: 0.25}
    assert {name: found[name] for name in without} == without, "they change nothing else"


def test_of_black_and_white_images_samples_are_drawn_so_too(data: ImageSet) -> None:
    """Grey means of a model that has learnt them to the last pixel are no nearer for being grey."""
    black_and_white = load_images(SAMPLE, CPU, binarize="threshold")
    grey = torch.full((128, 1, 28, 28), 0.5)
    drawn = metrics_of(grey, black_and_white)["Samples/MMD2"]
    chance = torch.bernoulli(grey, generator=noise("chance"))
    assert drawn == pytest.approx(
        metrics_of(chance, data=black_and_white)["Samples/MMD2"], rel=0.05
    )
    assert metrics_of(grey, data)["Samples/MMD2"] != pytest.approx(drawn, rel=0.05)


def test_a_models_samples_do_not_depend_on_the_models_before_it(
    data: ImageSet, judges: list[Classifier]
) -> None:
    first, second = gan(4).eval(), gan(8).eval()
    real = real_images(data, evaluation(), 0, judges)
    alone = sample_metrics(second, real, evaluation())
    for model in (first, second):
        found = sample_metrics(model, real, evaluation())
    assert found == alone


@pytest.mark.parametrize("labels", [None, torch.zeros(256, dtype=torch.uint8)])
def test_without_classes_there_is_the_mean_discrepancy_alone(
    data: ImageSet, labels: Tensor | None
) -> None:
    plain = ImageSet(Split(data.train.images, labels), Split(data.test.images, None))
    assert not has_classes(plain)
    real = real_images(plain, evaluation(), 0, [])
    found = evaluate(gan().eval(), plain, evaluation(), 0, {}, real)
    assert set(found.metrics) == {"Samples/MMD2", "Samples/MMD2 Floor"}
    assert found.series == {}
    assert class_pictures({"gan": found}, real) == {}


def test_colour_images_of_any_size_and_labels_with_gaps() -> None:
    images = torch.randint(0, 256, (60, 3, 8, 11), generator=noise()).byte()
    labels = torch.tensor([4, 9] * 30, dtype=torch.uint8)
    images[labels == 9] //= 4
    split = Split(images, labels)
    real = real_images(ImageSet(split, split), evaluation(), 0, [train_classifier(split, 0)])
    assert real.seen[0].shares == {4: 0.5, 9: 0.5}
    drawing = Drawing(split.to_float(slice(0, None, 2)))
    metrics, shares = sample_metrics(drawing, real, evaluation())
    assert shares == {4: 1.0, 9: 0.0}
    assert metrics["Samples/Classes Drawn"] == 1
    assert metrics["Samples/Class Evenness"] == 0
    assert metrics[DISTANCE] > metrics[FLOOR]


def test_bars_of_many_classes_are_byte_stable() -> None:
    even = dict.fromkeys(range(50), 1 / 50)
    shares = dict.fromkeys(("Test images", "VAE", "GAN"), even)
    first, second = (png(class_bars("Classes", shares)) for _ in range(2))
    assert first == second
