"""The generative adversarial network: two objectives in one step, and no encoder."""

from typing import Any

import pytest
import torch

from generative.core.images import ImageSet
from generative.core.loop import fit, initialise, make_optimizers, step
from generative.core.model import Encodes, HasElbo, Reconstructs, Samples
from generative.models.gan import DISCRIMINATOR, GAN, GENERATOR, OF_DATA, OF_SAMPLES
from models import CPU, compute, config, gan, noise


def weights(network: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_it_samples_and_does_nothing_else() -> None:
    model = gan()
    assert isinstance(model, Samples)
    assert not isinstance(model, Encodes | Reconstructs | HasElbo)
    drawn = model.sample(3, noise())
    assert drawn.shape == (3, 1, 28, 28)
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_each_update_moves_its_own_network_alone(data: ImageSet) -> None:
    model = initialise(GAN, config(GAN), 0, CPU)
    images = data.train.to_float(slice(0, 50))
    parts = (model.discriminator, model.generator)
    for moved, (update, optimizer) in enumerate(
        zip(model.updates(), make_optimizers(model), strict=True)
    ):
        before = [weights(part) for part in parts]
        step(update, optimizer, update.losses(images, noise()))
        now = [weights(part) for part in parts]
        unchanged = [all(map(torch.equal, *pair)) for pair in zip(before, now, strict=True)]
        assert unchanged == [moved != 0, moved != 1]


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_the_losses_are_those_of_the_paper_under_noise_of_that_level(level: float) -> None:
    model = gan(instance_noise=level).eval()
    images = torch.rand(5, 1, 28, 28, generator=noise("images"))

    def judged(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        noisy = images + level * torch.randn(images.shape, generator=rng)
        return torch.sigmoid(model.discriminator(noisy))

    with torch.inference_mode():
        found = model.test_losses(images, noise())
        rng = noise()
        samples = model.sample(5, rng)
        real, drawn = judged(images, rng), judged(samples, rng)
        deceiving = dict(model.updates()[1].losses(images, noise()))
        rng = noise()
        taken_in = judged(model.sample(5, rng), rng)
    assert found.keys() == {DISCRIMINATOR, OF_DATA, OF_SAMPLES, GENERATOR}
    assert torch.allclose(found[OF_DATA], real)
    assert torch.allclose(found[OF_SAMPLES], drawn)
    assert torch.allclose(found[DISCRIMINATOR], -(real.log() + (1 - drawn).log()), atol=1e-6)
    assert deceiving.keys() == {GENERATOR}
    assert torch.allclose(deceiving[GENERATOR], -taken_in.log(), atol=1e-6)


def test_every_preview_draws_from_the_same_latents(data: ImageSet) -> None:
    def previews(seed: int) -> list[Any]:
        model = initialise(GAN, config(GAN, lr=1e-9), seed, CPU)
        results = fit(model, make_optimizers(model), data, seed, compute(), CPU, range(1, 3))
        return [torch.cat([row for _, row in result.preview]) for result in results]

    first, second = previews(0)
    assert first.shape == (16, 1, 28, 28)
    assert torch.allclose(first, second, atol=1e-4), "a network that hardly learns draws the same"
    assert not torch.allclose(first, previews(1)[0], atol=1e-2)
