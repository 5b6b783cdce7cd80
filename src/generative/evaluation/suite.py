"""All metrics of a trained model: a model and images in, plain numbers out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from generative.core.images import ImageSet
from generative.core.model import Encodes, HasElbo, Model, Reconstructs, Samples
from generative.evaluation import EvaluationConfig
from generative.evaluation.likelihood import Likelihood, likelihood
from generative.evaluation.probes import Array, latents_of, probe_metrics
from generative.evaluation.reconstruction import means_of, reconstruction_errors
from generative.evaluation.samples import RealImages, Shares, sample_metrics


@dataclass(frozen=True)
class Evaluated:
    """A model, and what the test images say of it."""

    model: Model[Any]
    metrics: Mapping[str, float]
    latents: Array | None
    """Of the test images, (N, Z), of a model that encodes."""
    errors: Mapping[str, Tensor]
    """Of the test images, (N,) each: `reconstruction_errors`; none if it does not reconstruct."""
    likelihood: Likelihood | None
    """Of a model with an ELBO."""
    shares: Shares
    """Of the classes among its samples; none if it does not sample or there are no classes."""

    @property
    def series(self) -> dict[str, list[tuple[int, float]]]:
        """Figures that are curves: by name, x and y."""
        curves: dict[str, list[tuple[int, float]]] = {}
        if found := self.likelihood:
            curves = {
                f"{found.group}/KL by Unit": list(enumerate(found.divergences, start=1)),
                f"{found.group}/Bound by K": list(found.bounds.items()),
            }
        if self.shares:
            curves["Samples/Share by Class"] = list(self.shares.items())
        return curves


def evaluate(
    model: Model[Any],
    data: ImageSet,
    config: EvaluationConfig,
    seed: int,
    baseline: Mapping[str, float],
    real: RealImages,
) -> Evaluated:
    """Evaluate what a model can do, on the data's device, on the test images.

    `seed` is of all noise and every choice of images; `baseline` are the metrics that are the same
    for every model that encodes (`baseline_metrics`), `real` what all samples are compared with.
    """
    metrics: dict[str, float] = {}
    errors: dict[str, Tensor] = {}
    latents = found = None
    shares: Shares = {}
    if isinstance(model, Reconstructs):
        errors = reconstruction_errors(model, data.test, config, seed)
        metrics |= means_of(errors)
    if isinstance(model, Encodes):
        latents = latents_of(model, data.test, config.batch_size)
        metrics |= {**probe_metrics(model, latents, data, config, seed), **baseline}
    if isinstance(model, HasElbo):
        found = likelihood(model, data.test, config, seed)
        metrics |= found.metrics
    if isinstance(model, Samples):
        compared, shares = sample_metrics(model, real, config)
        metrics |= compared
    return Evaluated(model, metrics, latents, errors, found, shares)
