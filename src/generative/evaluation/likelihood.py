"""How probable a latent-variable model takes images to be, and which of its dimensions say it."""

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Generator, Tensor

from generative.core.compute import CPU, generator
from generative.core.images import Split
from generative.core.model import HasElbo, normal_like
from generative.evaluation import EvaluationConfig, is_binary, random_subset
from generative.models.vae import gaussian_kl, reparameterize

ACTIVE = 0.01
"""The variance from which a dimension counts as active (Burda et al., 2016, section 5.3)."""

_AT_ONCE = 20_000 * 784  # pixels that are decoded in one go: 60 MB


@dataclass(frozen=True)
class Likelihood:
    """Figures of a split, and what they are made of."""

    group: str
    """Of the names of its figures: `Likelihood`, or of grey images `Unnormalised Likelihood`."""
    metrics: dict[str, float]
    order: list[int]
    """The latent dimensions by falling KL."""
    divergences: list[float]
    """Their KL in that order, nats an image."""
    active: list[bool]
    """Which of them are active, in that order."""
    bounds: dict[int, float]
    """The importance-weighted bound by its number of samples; 1 is the ELBO."""


@torch.inference_mode()
def likelihood(model: HasElbo, split: Split, config: EvaluationConfig, seed: int) -> Likelihood:
    """Means over a split's images, nats an image.

    Of images of black and white pixels these are bounds on log p(x). Of grey ones they are not:
    exp(-cross entropy) does not integrate to 1 over [0, 1], so that no figure of a normalised
    density compares with them, and their names begin with `Unnormalised`. Loaiza-Ganem and
    Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders"
    (2019), section 3.

    - `ELBO`: the mean over `noise_seeds` seeds of the noise; `ELBO Interval` is half of its 95 %
      interval by Student's t. Its parts: `Reconstruction` and `KL`.
    - `Active Units`: how many dimensions of the posterior's mean vary by more than `ACTIVE`.
    - `IWAE Bound`: importance-weighted bound with `importance_samples` samples: the ELBO of all
      images, and by how much the bound is above it at `importance_images` images drawn at random;
      half of the 95 % interval of that is `IWAE Interval`. Burda et al., "Importance Weighted
      Autoencoders" (2016), equation 8.
    """
    streams = [generator(CPU, seed, "evaluate/latents", n) for n in range(config.noise_seeds)]
    errors = torch.zeros(config.noise_seeds, dtype=torch.float64, device=split.images.device)
    divergences, means = [], []
    for images in split.batches(config.batch_size):
        mean, log_variance = model.posterior(images)
        for number, stream in enumerate(streams):
            latents = reparameterize(mean, log_variance, stream)
            errors[number] += model.reconstruction_error(images, latents).double().sum()
        divergences.append(gaussian_kl(mean, log_variance))
        means.append(mean)
    per_dimension = torch.cat(divergences).double().mean(0)
    kl = per_dimension.sum().item()
    active = torch.cat(means).double().var(0) > ACTIVE
    elbos = (-errors / len(split) - kl).cpu()
    quantile = float(stats.t.ppf(0.975, config.noise_seeds - 1))
    stream = generator(CPU, seed, "evaluate/importance")
    chosen = split.to_float(random_subset(split, config.importance_images, stream))
    weights = log_weights(model, chosen, config.importance_samples, stream)
    elbo, own = elbos.mean().item(), bounds_of(weights, 1)
    gains = {k: bounds_of(weights, k) - own for k in _counts(config.importance_samples)}
    bounds = {k: elbo + gain.mean().item() for k, gain in gains.items()}
    gain = gains[config.importance_samples]
    group = "Likelihood" if is_binary(split) else "Unnormalised Likelihood"
    metrics = {
        "ELBO": elbo,
        "ELBO Interval": quantile * elbos.std().item() / math.sqrt(len(elbos)),
        "Reconstruction": errors.mean().item() / len(split),
        "KL": kl,
        "Active Units": float(active.sum().item()),
        "IWAE Bound": bounds[config.importance_samples],
        "IWAE Interval": 1.96 * gain.std().nan_to_num().item() / math.sqrt(len(gain)),
    }
    order = per_dimension.argsort(descending=True, stable=True)
    named = {f"{group}/{name}": value for name, value in metrics.items()}
    return Likelihood(
        group,
        named,
        order.tolist(),
        per_dimension[order].tolist(),
        active[order].tolist(),
        bounds,
    )


def log_weights(model: HasElbo, images: Tensor, samples: int, rng: Generator) -> Tensor:
    """Log p(x, z) - log q(z|x) of `samples` draws z ~ q(z|x) an image: (samples, B), float64."""
    mean, log_variance = model.posterior(images)
    at_once = max(1, _AT_ONCE // images.numel())
    parts = []
    for start in range(0, samples, at_once):
        count = min(at_once, samples - start)
        epsilon = normal_like(mean.expand(count, *mean.shape), rng)
        latents = mean + torch.exp(log_variance / 2) * epsilon
        repeated = images.expand(count, *images.shape).flatten(0, 1)
        error = model.reconstruction_error(repeated, latents.flatten(0, 1)).view(count, -1)
        prior_to_posterior = 0.5 * (epsilon.square() + log_variance - latents.square()).sum(2)
        parts.append(prior_to_posterior.double() - error.double())
    return torch.cat(parts)


def bounds_of(weights: Tensor, count: int) -> Tensor:
    """The importance-weighted bound of each image with `count` samples, (B,), nats.

    Args:
        weights: log weights, (samples, B); groups of `count` samples are averaged over.
        count: a divisor of the number of samples.
    """
    groups = weights.view(-1, count, weights.shape[1])
    return (groups.logsumexp(1) - math.log(count)).mean(0)


def _counts(samples: int) -> list[int]:
    """1, `samples`, and its whole tenths."""
    counts = [samples]
    while counts[-1] % 10 == 0:
        counts.append(counts[-1] // 10)
    return sorted({1, *counts})
