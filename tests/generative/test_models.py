"""The networks and losses are those of the chapter."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from generative.core.loop import initialise
from generative.core.model import (
    MNIST_SHAPE,
    RECONSTRUCTION,
    TOTAL,
    Autoencoder,
    Shape,
    add_noise,
)
from generative.errors import UserError
from generative.models.ae import AE
from generative.models.registry import load_model
from generative.models.vae import KL, VAE, VAEConfig
from generative.pipeline.check import check_shapes
from models import CPU, ae, config, gan, noise, vae


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_networks_have_the_chapters_layers() -> None:
    kernels = 9 * (1 * 8 + 8 * 16 + 16 * 32 + 32 * 16 + 16 * 8 + 8 * 1)
    biases = 8 + 16 + 32 + 16 + 8 + 1
    norms = 2 * (16 + 16 + 8)
    linear = (288 * 128 + 128) + (128 * 4 + 4) + (4 * 128 + 128) + (128 * 288 + 288)
    assert weights(ae()) == kernels + biases + norms + linear
    encoder = (784 * 400 + 400) + (400 * 400 + 400) + 2 * (400 * 200 + 200)
    decoder = (200 * 400 + 400) + (400 * 400 + 400) + (400 * 784 + 784)
    assert weights(vae()) == encoder + decoder


@pytest.mark.parametrize("latent_dim", [1, 200])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("make", [ae, vae])
def test_shapes(make: Any, count: int, latent_dim: int) -> None:
    model: Autoencoder[Any] = make(latent_dim)
    batch = torch.rand(count, 1, 28, 28, generator=noise("images"))
    assert model.reconstruct(batch).shape == batch.shape
    for losses in (model.training_losses(batch, noise()), model.test_losses(batch, noise())):
        assert {values.shape for values in losses.values()} == {(count,)}
    for _, row in model.preview(batch, noise()):
        assert row.shape == batch.shape
        assert 0 <= row.min() <= row.max() <= 1


def test_the_autoencoder_aims_at_its_target_and_is_tested_on_clean_images(images: Tensor) -> None:
    noisy = add_noise(images, 0.3, noise())
    for target, aim in (("noisy", noisy), ("clean", images)):
        model = ae(target=target)
        reconstructed = torch.sigmoid(model.reconstruct(noisy))
        expected = (reconstructed - aim).square().mean((1, 2, 3))
        torch.testing.assert_close(model.training_losses(images, noise())[TOTAL], expected)
        of_clean = torch.sigmoid(model.eval().reconstruct(images))
        tested = model.test_losses(images, noise())[TOTAL]
        torch.testing.assert_close(tested, (of_clean - images).square().mean((1, 2, 3)))
    model = ae(loss="bce").eval()
    of_clean = torch.sigmoid(model.reconstruct(images))
    expected = F.binary_cross_entropy(of_clean, images, reduction="none").mean((1, 2, 3))
    torch.testing.assert_close(model.test_losses(images, noise())[RECONSTRUCTION], expected)


def test_the_elbo_is_torchs_own(images: Tensor) -> None:
    model = vae(latent_dim=5)
    mean, log_variance = model.posterior(images)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    latents = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=noise())
    likelihood = torch.distributions.Bernoulli(logits=model.decoder(latents), validate_args=False)
    log_likelihood = likelihood.log_prob(images).sum((1, 2, 3))  # type: ignore[no-untyped-call]
    terms = model.elbo_terms(images, noise())
    torch.testing.assert_close(terms[RECONSTRUCTION], -log_likelihood)
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1)
    torch.testing.assert_close(terms[KL], divergence)


def test_beta_weighs_the_divergence_in_the_total_alone(images: Tensor) -> None:
    model = vae(beta=4.0)
    losses = model.training_losses(images, noise())
    torch.testing.assert_close(losses[TOTAL], losses[RECONSTRUCTION] + 4 * losses[KL])
    torch.testing.assert_close(model.elbo_terms(images, noise())[KL], losses[KL])


def test_the_objective_is_the_chapters_reduction() -> None:
    losses = {TOTAL: torch.tensor([1.0, 2.0, 6.0])}
    assert ae().objective(losses) == 3, "a mean over the batch"
    assert vae().objective(losses) == 9, "a sum over the batch"


def test_large_logits_give_a_finite_loss() -> None:
    model = vae()
    with torch.no_grad():
        model.decoder.get_parameter("4.bias").fill_(1000.0)
    losses = model.training_losses(torch.zeros(2, 1, 28, 28), noise())
    torch.testing.assert_close(
        losses[RECONSTRUCTION], torch.full((2,), 784 * 1000.0), rtol=1e-4, atol=0
    )


def test_noise_is_gaussian_and_clipped() -> None:
    grey = torch.full((200, 1, 28, 28), 0.5)
    change = add_noise(grey, 0.1, noise()) - grey
    assert abs(change.std().item() - 0.1) < 0.001
    assert abs(change.mean().item()) < 0.001
    clipped = add_noise(torch.zeros(200, 1, 28, 28), 0.3, noise())
    # The mean of max(0, N(0, 0.3)): the grey background that the target `noisy` teaches.
    assert abs(clipped.mean().item() - 0.3 / math.sqrt(2 * math.pi)) < 0.001


def test_a_saved_model_comes_back_whole_and_equal_models_make_equal_files(
    images: Tensor, tmp_path: Path
) -> None:
    model, file = ae().eval(), tmp_path / "model.safetensors"
    file.write_bytes(model.to_bytes())
    loaded = load_model(file, AE)
    assert loaded.config == model.config
    assert torch.equal(loaded.reconstruct(images), model.reconstruct(images))
    assert loaded.to_bytes() == file.read_bytes()


@pytest.mark.parametrize("make", [ae, vae, gan])
def test_a_model_file_says_how_its_epoch_was_chosen_only_where_it_was(
    make: Any, tmp_path: Path
) -> None:
    """So that files from before there was a choice keep their bytes."""
    path = tmp_path / "model.safetensors"
    for model in (make(), make(keep="Train/Total Loss", patience=2)):
        path.write_bytes(model.to_bytes())
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["generative"])["config"]
        assert ({"keep", "patience"} <= config.keys()) == (model.config.keep != "last")
        assert load_model(path, type(model)).config == model.config


def test_a_model_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    small, large = tmp_path / "small.safetensors", tmp_path / "large.safetensors"
    small.write_bytes(vae(latent_dim=4).to_bytes())
    large.write_bytes(vae(latent_dim=5).to_bytes())
    # The header of one with the weights of the other.
    from safetensors.torch import load_file, save_file

    with safe_open(small, framework="pt") as file:
        metadata = file.metadata()
    mixed = tmp_path / "mixed.safetensors"
    save_file(load_file(large), mixed, metadata)
    with pytest.raises(UserError, match=r"mixed.safetensors: the weights do not fit the config"):
        load_model(mixed, VAE)
    with pytest.raises(UserError, match=r"holds the model 'vae', not 'ae'"):
        load_model(small, AE)
    (tmp_path / "cut").write_bytes(small.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cut: not a model file of this pipeline, or damaged"):
        load_model(tmp_path / "cut", VAE)
    with pytest.raises(UserError, match=r"none: no such file"):
        load_model(tmp_path / "none", VAE)


class OneChannel(VAE):
    """Somebody's: made for grey images, whatever it is given."""

    def __init__(self, config: VAEConfig, shape: Shape = MNIST_SHAPE) -> None:
        super().__init__(config, shape)
        self.decoder[-2] = nn.Linear(config.hidden_dim, 784)
        self.decoder[-1] = nn.Unflatten(1, MNIST_SHAPE)


def test_a_model_that_does_not_fit_the_images_is_refused_before_training() -> None:
    images = torch.rand(2, 3, 28, 28, generator=noise())
    check_shapes(initialise(VAE, config(VAE), 0, CPU, (3, 28, 28)), images)
    said = (
        r"row 'Reconstruction data' of preview gives images of 1 x 28 x 28, but the .* are 3 x 28"
    )
    with pytest.raises(UserError, match=said) as refused:
        check_shapes(initialise(OneChannel, config(VAE), 0, CPU, (3, 28, 28)), images)
    assert str(refused.value).endswith("; build its layers from the `shape` that it is given.")
