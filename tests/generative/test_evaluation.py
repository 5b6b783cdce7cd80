"""Metrics against known answers, pictures for every shape of model, and where they are shown."""

import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow_views import client, event_files, runs
from PIL import Image
from torch import Tensor
from workspaces import SAMPLE, Workspace

from generative.core.compute import generator
from generative.core.images import ImageSet, Split, load_images
from generative.core.model import Model, Reconstructs, add_noise
from generative.evaluation import SEED, random_subset
from generative.evaluation.likelihood import bounds_of, likelihood, log_weights
from generative.evaluation.model_pictures import pictures_of
from generative.evaluation.probes import baseline_metrics, latents_of, pixels_of, probe_metrics
from generative.evaluation.reconstruction import (
    check_logits,
    image_errors,
    means_of,
    reconstruction_errors,
)
from generative.evaluation.samples import real_images, squared_mmd
from generative.evaluation.suite import Evaluated, evaluate
from generative.models.vae import VAE
from generative.project import PROJECT
from models import CPU, ae, evaluation, gan, noise, vae

WIDER = 4.0


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class LinearGaussian(VAE):
    """x = W z + e, with orthogonal columns in W; q(z|x) has `WIDER` times the true variance."""

    def __init__(self) -> None:
        super().__init__(vae(latent_dim=3).config)
        stream = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(784, 3, generator=stream, dtype=torch.float64)).Q
        self.weights = basis * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        self.variance = 1 / (1 + self.weights.square().sum(0))

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = images.flatten(1) @ self.weights * self.variance
        return mean, (self.variance * WIDER).log().expand_as(mean)

    def reconstruction_error(self, images: Tensor, latents: Tensor) -> Tensor:
        law = torch.distributions.Normal(latents @ self.weights.T, 1.0)
        log_likelihood: Tensor = law.log_prob(images.flatten(1))  # type: ignore[no-untyped-call]
        return -log_likelihood.sum(1)


def test_the_bound_rises_from_the_elbo_to_the_known_log_likelihood(data: ImageSet) -> None:
    model, images = LinearGaussian(), data.test.to_float(slice(3)).double()
    ones = torch.ones(784, dtype=torch.float64)
    law = torch.distributions.LowRankMultivariateNormal(0 * ones, model.weights, ones)
    known = law.log_prob(images.flatten(1)).mean().item()  # type: ignore[no-untyped-call]
    divergence = 3 * (WIDER - 1 - math.log(WIDER)) / 2  # of q(z|x) from the true posterior
    weights = log_weights(model, images, 2000, noise())
    bounds = [bounds_of(weights, count).mean().item() for count in (1, 10, 100, 2000)]
    assert bounds[0] == pytest.approx(known - divergence, abs=0.05)
    assert bounds == sorted(bounds)
    assert bounds[-1] == pytest.approx(known, abs=0.02)


def test_likelihood_metrics_fit_together(data: ImageSet) -> None:
    model = vae(latent_dim=6).eval()
    with torch.no_grad():
        for parameters in (model.mean, model.log_variance):
            parameters.weight[2:].zero_()
            parameters.bias[2:].zero_()
        model.mean.weight[:2] *= 20
    found = likelihood(model, data.test, evaluation(), 0)
    assert found.metrics["Unnormalised Likelihood/Active Units"] == 2
    assert set(found.order[:2]) == {0, 1}
    assert found.active == [True] * 2 + [False] * 4
    assert found.divergences == sorted(found.divergences, reverse=True)
    assert found.divergences[2:] == [0.0] * 4
    kl = found.metrics["Unnormalised Likelihood/KL"]
    assert sum(found.divergences) == pytest.approx(kl)
    elbo = found.metrics["Unnormalised Likelihood/ELBO"]
    assert elbo == pytest.approx(-kl - found.metrics["Unnormalised Likelihood/Reconstruction"])
    assert list(found.bounds) == [1, 10, 100]
    assert list(found.bounds.values()) == sorted(found.bounds.values())
    assert found.metrics["Unnormalised Likelihood/IWAE Bound"] == found.bounds[100]
    assert found.bounds[1] == elbo, "the bound is of all images, its gain of those drawn"
    some = likelihood(model, data.test, evaluation(importance_images=10), 0)
    assert some.metrics["Unnormalised Likelihood/ELBO"] == elbo
    gains = [one.bounds[100] - one.bounds[1] for one in (found, some)]
    intervals = [one.metrics["Unnormalised Likelihood/IWAE Interval"] for one in (found, some)]
    assert min(*intervals, found.metrics["Unnormalised Likelihood/ELBO Interval"]) > 0
    assert abs(gains[0] - gains[1]) < 3 * max(intervals)


def test_what_an_evaluation_draws_is_the_same_whatever_seed_and_device_trained(
    data: ImageSet,
) -> None:
    """Its streams are the CPU's; the images that they choose are where the split is."""
    there = Split(data.test.images.to("meta"), None)
    moved = random_subset(there, 20, generator(CPU, SEED, "evaluate/importance"))
    assert (moved.device.type, len(moved), SEED) == ("meta", 20, 0)


def test_only_of_black_and_white_images_an_elbo_is_called_a_likelihood(data: ImageSet) -> None:
    model = vae(latent_dim=6).eval()
    binary = load_images(SAMPLE, CPU, binarize="threshold")
    grey = likelihood(model, data.test, evaluation(), 0)
    black_and_white = likelihood(model, binary.test, evaluation(), 0)
    assert {name.partition("/")[0] for name in grey.metrics} == {"Unnormalised Likelihood"}
    assert {name.partition("/")[0] for name in black_and_white.metrics} == {"Likelihood"}


class Measured(VAE):
    """A model whose reconstruction errors are known, one a call, and whose divergence is 0."""

    def __init__(self, errors: list[float]) -> None:
        super().__init__(vae(latent_dim=3).config)
        self._errors = iter(errors)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(images), 3), torch.zeros(len(images), 3)

    def reconstruction_error(self, images: Tensor, latents: Tensor) -> Tensor:  # noqa: ARG002
        return torch.full((len(latents),), next(self._errors, 0.0))


def test_the_elbos_interval_is_students(data: ImageSet) -> None:
    errors = [1.0, 2.0, 6.0]
    settings = evaluation(batch_size=len(data.test), noise_seeds=len(errors))
    found = likelihood(Measured(errors), data.test, settings, 0).metrics
    quantile = 4.303  # for 97.5 %, from a printed table
    interval = quantile * statistics.stdev(errors) / math.sqrt(len(errors))
    assert found["Unnormalised Likelihood/ELBO"] == pytest.approx(-statistics.mean(errors))
    assert found["Unnormalised Likelihood/ELBO Interval"] == pytest.approx(interval, rel=1e-3)


def test_errors_of_images_that_are_known(data: ImageSet) -> None:
    images = data.test.to_float(slice(8))
    same = image_errors(torch.logit(images, eps=1e-7), images)
    assert same["MSE"].max() < 1e-12
    torch.testing.assert_close(same["SSIM"], torch.ones(8))
    grey = image_errors(torch.zeros_like(images), images)
    expected = (images - 0.5).square().mean((1, 2, 3))
    torch.testing.assert_close(grey["MSE"], expected)
    torch.testing.assert_close(grey["PSNR"], -10 * expected.log10())
    torch.testing.assert_close(grey["BCE"], torch.full((8,), 784 * math.log(2)))
    assert grey["SSIM"].max() < 0.1
    for name, values in same.items():
        way = "higher" if values.min() > grey[name].max() else "lower"
        assert PROJECT.way_of(f"Reconstruction/{name}") == way
    black_and_white = (images > 0.5).float()
    as_it_was = image_errors((black_and_white - 0.5) * 1e4, black_and_white)
    assert as_it_was["PSNR"].tolist() == [100] * 8, "finite"


class Gives(Reconstructs):
    """Gives back something made of the images."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        self.make = make

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.make(images)


def test_a_model_that_gives_images_for_logits_is_warned_of(
    data: ImageSet, capsys: pytest.CaptureFixture[str]
) -> None:
    check_logits("own", Gives(torch.logit), data.test, 100)
    check_logits("own", Gives(lambda images: images / 9), data.test, 100)  # hardly trained
    assert capsys.readouterr() == ("", "")
    check_logits("own", Gives(lambda images: images), data.test, 100)
    assert (
        "all that 'own' reconstructs lies in [0, 1]: is there a sigmoid" in capsys.readouterr().err
    )


def test_means_do_not_depend_on_the_batch_size_and_noise_of_0_is_none(data: ImageSet) -> None:
    model = ae().eval()
    one, other = (
        means_of(
            reconstruction_errors(
                model, data.test, evaluation(batch_size=size, noise_factors=[0]), 0
            )
        )
        for size in (7, 128)
    )
    assert one == pytest.approx(other, rel=1e-5)
    for name in ("MSE", "BCE", "PSNR", "SSIM"):
        assert one[f"Reconstruction/{name}"] == one[f"Denoising/{name} at 0"]


class Codes(VAE):
    """A model whose codes are known; it gives back what it gets, if these are the images."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(vae().config)
        self._function = function

    def encode(self, images: Tensor) -> Tensor:
        return self._function(images)

    def decode(self, latents: Tensor) -> Tensor:
        return torch.logit(latents, eps=1e-7)


def test_what_removes_no_noise_is_as_wrong_as_the_noise_is_strong(data: ImageSet) -> None:
    model, levels = Codes(lambda images: images), [0.1, 0.3, 0.5]
    found = means_of(reconstruction_errors(model, data.test, evaluation(noise_factors=levels), 0))
    assert found["Reconstruction/MSE"] < 1e-12
    for level in levels:
        images = data.test.to_float(slice(None))
        expected = (add_noise(images, level, noise()) - images).square().mean().item()
        assert found[f"Denoising/MSE at {level}"] == pytest.approx(expected, rel=0.02)
    similarities = [found[f"Denoising/SSIM at {level}"] for level in levels]
    assert 1 > similarities[0] > similarities[1] > similarities[2]


def test_probes_read_what_is_in_the_codes(data: ImageSet) -> None:
    pixels = Codes(lambda images: images.flatten(1))
    baseline = baseline_metrics(data, evaluation(), 0)
    codes = latents_of(pixels, data.test, 50)
    assert np.array_equal(codes, pixels_of(data.test))
    found = probe_metrics(pixels, codes, data, evaluation(), 0)
    for kind in ("Probe", "kNN"):
        accuracy = found[f"Latents/{kind} Accuracy"]
        assert accuracy == baseline[f"Latents/{kind} of Pixels"] > 0.6


def test_the_mean_discrepancy_is_the_papers_sum() -> None:
    random = np.random.default_rng(0)
    first, second = (random.normal(size=(n, 3)).astype(np.float32) for n in (6, 5))

    def kernel(a: Any, b: Any) -> float:
        return math.exp(-float(((a - b) ** 2).sum()) / (2 * 1.5**2))

    def within(part: Any) -> float:
        pairs = [(a, b) for i, a in enumerate(part) for j, b in enumerate(part) if i != j]
        return sum(kernel(a, b) for a, b in pairs) / len(pairs)

    between = sum(kernel(a, b) for a in first for b in second) / 30
    expected = within(first) + within(second) - 2 * between
    assert squared_mmd(first, second, 1.5) == pytest.approx(expected, abs=1e-6)


def test_a_choice_is_random_repeats_and_takes_no_image_twice(data: ImageSet) -> None:
    chosen = random_subset(data.test, 20, noise())
    assert torch.equal(chosen, random_subset(data.test, 20, noise()))
    assert not torch.equal(chosen, random_subset(data.test, 20, noise("other")))
    assert len(set(chosen.tolist())) == 20
    assert chosen.tolist() == sorted(chosen.tolist())
    assert torch.equal(random_subset(data.test, 10**6, noise()), torch.arange(len(data.test)))


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_pictures_fit_every_latent_size(data: ImageSet, latent_dim: int) -> None:
    settings = evaluation()
    models: dict[str, Model[Any]] = {
        "ae": ae(latent_dim),
        "vae": vae(latent_dim),
        "gan": gan(latent_dim),
    }
    real = real_images(data, settings, 0, [])
    evaluated: dict[str, Evaluated] = {
        name: evaluate(model.eval(), data, settings, 0, {}, real) for name, model in models.items()
    }
    pictures = pictures_of(evaluated, data.test, settings, 0)
    plane = {"ae_plane", "vae_plane"} if latent_dim == 2 else set()
    both = ("extremes", "interpolation", "latent_map", "traversals")
    assert set(pictures) == {
        *("reconstructions", "denoising", "vae_samples", "vae_divergences", "gan_samples"),
        *(f"{model}_{name}" for model in ("ae", "vae") for name in both),
        *plane,
    }
    assert {(pixels.dtype, pixels.ndim) for pixels in pictures.values()} == {(np.dtype("u1"), 3)}


def test_an_encoder_that_says_nothing_is_evaluated_like_another(data: ImageSet) -> None:
    model = ae(9).eval()
    for parameter in model.encoder.parameters():
        torch.nn.init.zeros_(parameter)
    settings = evaluation()
    found = evaluate(model, data, settings, 0, {}, real_images(data, settings, 0, []))
    assert found.latents is not None
    assert np.ptp(found.latents) == 0
    assert found.metrics["Latents/Probe Accuracy"] < 0.3
    assert "ae_latent_map" in pictures_of({"ae": found}, data.test, settings, 0)


def test_trackers_show_all_that_was_evaluated(built: Workspace) -> None:
    metrics = json.loads(built.read("metrics/evaluation.json"))
    (run,) = runs(built, "evaluate")
    judges = [float(accuracy) for accuracy in run.data.tags["judges"].split(", ")]
    assert len(judges) == 3
    assert all(0.7 < accuracy <= 1 for accuracy in judges)
    distance, floor = (f"Samples/Classifier Frechet {name}" for name in ("Distance", "Floor"))
    assert [name for name, found in metrics.items() if distance in found] == ["vae", "gan"]
    assert metrics["vae"][floor] == metrics["gan"][floor]
    page = client(built).download_artifacts(run.info.run_id, "artifacts/explorer.html")
    assert Path(page).read_bytes() == built.read("metrics/explorer.html")

    folder = built.path / "tensorboard/evaluate" / run.info.run_name
    for model, latent_dim in (("ae", 4), ("vae", 8)):
        events = event_files(built, run, model)
        for name, value in metrics[model].items():
            (point,) = events.Scalars(f"eval/{name}")
            assert point.value == pytest.approx(value, rel=1e-6)
        assert np.loadtxt(folder / model / "vectors.tsv").shape == (128, latent_dim)
        assert len((folder / model / "labels.tsv").read_text().splitlines()) == 128
        with Image.open(folder / model / "thumbnails.png") as sprite:
            assert sprite.size == (12 * 28, 12 * 28)
    shares = event_files(built, run, "vae").Scalars("eval/Samples/Share by Class")
    assert [point.step for point in shares] == [*range(10)], "a digit's share stands at the digit"
    pictures = {path.stem for path in (built.path / "metrics/pictures").iterdir()}
    assert "sample_classes" in pictures
    assert set(event_files(built, run).Tags()["images"]) == pictures
