"""All metrics of a trained model: a model and images in, plain numbers out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from generative.data.dataset import ImageSet
from generative.evaluation.config import EvaluationConfig
from generative.evaluation.likelihood import Likelihood, likelihood
from generative.evaluation.mmd import sample_metrics
from generative.evaluation.probes import Array, latents_of, probe_metrics
from generative.evaluation.reconstruction import means_of, reconstruction_errors
from generative.models.base import Encodes, HasElbo, Model, Reconstructs, Samples


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

    @property
    def series(self) -> dict[str, list[tuple[int, float]]]:
        """Figures that are curves: by name, x and y."""
        if self.likelihood is None:
            return {}
        group = self.likelihood.group
        return {
            f"{group}/KL by Unit": list(enumerate(self.likelihood.divergences, start=1)),
            f"{group}/Bound by K": list(self.likelihood.bounds.items()),
        }


def evaluate(
    model: Model[Any],
    data: ImageSet,
    config: EvaluationConfig,
    seed: int,
    baseline: Mapping[str, float],
) -> Evaluated:
    """Evaluate what a model can do, on the data's device, on the test images.

    `seed` is of all noise and every choice of images; `baseline` are the metrics that are the same
    for every model that encodes (`baseline_metrics`).
    """
    metrics: dict[str, float] = {}
    errors: dict[str, Tensor] = {}
    latents = found = None
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
        metrics |= sample_metrics(model, data, config, seed)
    return Evaluated(model, metrics, latents, errors, found)
