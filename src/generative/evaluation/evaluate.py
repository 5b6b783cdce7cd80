"""All figures of a trained model: a model and images in, plain numbers out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from generative.evaluation.config import EvaluationConfig
from generative.evaluation.latents import Array, codes_of, probe_figures
from generative.evaluation.likelihood import Likelihood, likelihood
from generative.evaluation.reconstruction import means_of, reconstruction_errors
from generative.evaluation.samples import sample_figures
from generative.mnist import Mnist
from generative.models.base import LatentVariableModel, Model


@dataclass(frozen=True)
class Evaluated:
    """A model, and what the test images say of it."""

    model: Model[Any]
    figures: Mapping[str, float]
    codes: Array
    """Of the test images, (N, Z)."""
    errors: Mapping[str, Tensor]
    """Of the test images, (N,) each: `reconstruction_errors`."""
    likelihood: Likelihood | None
    """Of a latent-variable model."""

    @property
    def series(self) -> dict[str, list[tuple[int, float]]]:
        """Figures that are curves: by name, x and y."""
        if self.likelihood is None:
            return {}
        return {
            "Likelihood/KL by Unit": list(enumerate(self.likelihood.divergences, start=1)),
            "Likelihood/Bound by K": list(self.likelihood.bounds.items()),
        }


def evaluate(
    model: Model[Any],
    data: Mnist,
    config: EvaluationConfig,
    seed: int,
    baseline: Mapping[str, float],
) -> Evaluated:
    """Evaluate a model on the test images.

    Args:
        model: on the data's device.
        data: both splits; the training images teach the classifiers that read codes.
        config: sizes.
        seed: of all noise and every choice of images.
        baseline: figures that are the same for every model (`baseline_figures`).
    """
    codes = codes_of(model, data.test, config.batch_size)
    errors = reconstruction_errors(model, data.test, config, seed)
    figures = means_of(errors)
    figures |= {**probe_figures(model, codes, data, config, seed), **baseline}
    if not isinstance(model, LatentVariableModel):
        return Evaluated(model, figures, codes, errors, None)
    found = likelihood(model, data.test, config, seed)
    figures |= {**found.figures, **sample_figures(model, data, config, seed)}
    return Evaluated(model, figures, codes, errors, found)
