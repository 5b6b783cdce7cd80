"""The loop: deterministic, examples weighed alike, and a loss that explodes is an error."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from workspaces import SAMPLE

from generative.core.compute import prepare
from generative.core.images import ImageSet, Split, load_images
from generative.core.loop import EpochResult, M, fit, initialise, make_optimizers
from generative.core.model import Model
from generative.errors import RunFailed, UserError
from generative.models.ae import AE
from generative.models.gan import GAN
from generative.models.registry import REGISTRY
from generative.models.vae import VAE
from models import CPU, compute, config, no_cuda


def train(
    model_class: type[M], data: ImageSet, seed: int = 0, **changes: Any
) -> tuple[M, list[EpochResult]]:
    settings = {key: changes.pop(key) for key in ("precision",) if key in changes}
    model = initialise(model_class, config(model_class, **changes), seed, CPU)
    numbers = range(1, model.config.epochs + 1)
    results = fit(model, make_optimizers(model), data, seed, compute(**settings), CPU, numbers)
    return model, list(results)


@pytest.mark.parametrize("model_class", REGISTRY.values())
def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(
    model_class: type[Model[Any]], data: ImageSet
) -> None:
    (first, losses), (second, same), (other, _) = (
        train(model_class, data, seed) for seed in (0, 0, 1)
    )
    assert [result.steps for result in losses] == [result.steps for result in same]
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("model_class", REGISTRY.values())
@pytest.mark.parametrize("batch_size", [1, 100])
def test_any_batch_size_works_and_means_weigh_examples(
    model_class: type[Model[Any]], batch_size: int, data: ImageSet
) -> None:
    _, results = train(model_class, data, epochs=1, batch_size=batch_size)
    for split, size in (("Train", 256), ("Test", 128)):
        loss = model_class.drawn_losses[0]
        values = results[0].steps[f"{split}/{loss}"]
        assert len(values) == -(-size // batch_size)
        sizes = [min(batch_size, size - start) for start in range(0, size, batch_size)]
        mean = sum(value * count for value, count in zip(values, sizes, strict=True)) / size
        assert results[0].means[f"{split}/{loss}"] == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("model_class", [AE, VAE])  # of an adversary the other's gain is its loss
def test_training_lowers_the_loss(model_class: type[Model[Any]], data: ImageSet) -> None:
    _, results = train(model_class, data, epochs=4, batch_size=32)
    loss = f"Train/{model_class.drawn_losses[0]}"
    assert results[-1].means[loss] < 0.9 * results[0].means[loss]


@pytest.mark.parametrize("model_class", REGISTRY.values())
def test_bfloat16_stays_near_float32(model_class: type[Model[Any]], data: ImageSet) -> None:
    _, exact = train(model_class, data)
    _, coarse = train(model_class, data, precision="bf16")
    loss = f"Test/{model_class.drawn_losses[0]}"
    expected = exact[-1].means[loss]
    assert coarse[-1].means[loss] == pytest.approx(expected, rel=0.02)
    assert coarse[-1].means != exact[-1].means


def test_validation_images_are_training_images_drawn_by_the_seed(data: ImageSet) -> None:
    def rows(*splits: Split | None) -> list[tuple[int, ...]]:
        """Pixels and label of each image, in no order."""
        found: list[tuple[int, ...]] = []
        for split in splits:
            assert split is not None
            assert split.labels is not None
            labelled = torch.cat([split.images.flatten(1), split.labels[:, None]], 1)
            found += map(tuple, labelled.tolist())
        return sorted(found)

    first, same, other = (load_images(SAMPLE, CPU, seed, validation=56) for seed in (0, 0, 1))
    assert (len(first.train), len(rows(first.validation))) == (200, 56)
    assert not {*rows(first.train)} & {*rows(first.validation)}
    assert rows(first.train, first.validation) == rows(data.train)
    assert rows(first.validation) == rows(same.validation) != rows(other.validation)
    assert rows(first.test) == rows(data.test)
    assert data.validation is None
    with pytest.raises(UserError, match=r"split.validation is 256, which leaves none of the 256"):
        load_images(SAMPLE, CPU, validation=256)


def test_losses_of_a_split_are_those_of_all_its_images_at_once() -> None:
    apart = load_images(SAMPLE, CPU, validation=56)
    assert apart.validation is not None
    model, (result,) = train(AE, apart, epochs=1)
    names = [f"{split}/{loss}" for split in ("Train", "Validation", "Test") for loss in AE.losses]
    assert [*result.means] == [*result.steps] == names
    for name, split in (("Validation", apart.validation), ("Test", apart.test)):
        images = split.images / 255
        with torch.inference_mode():
            made = torch.sigmoid(model.eval().reconstruct(images))
        expected = pytest.approx(F.mse_loss(made, images).item(), rel=1e-5)
        assert result.means[f"{name}/Total Loss"] == expected


def test_previews_show_the_same_images_with_the_same_noise_every_epoch(data: ImageSet) -> None:
    _, results = train(AE, data)
    first, second = (dict(result.preview) for result in results)
    assert torch.equal(first["Noisy"], second["Noisy"])
    assert not torch.equal(first["Reconstructed"], second["Reconstructed"])


def test_a_loss_that_explodes_names_the_epoch_and_the_step(data: ImageSet) -> None:
    with pytest.raises(
        RunFailed, match=r"became (nan|inf) in epoch 1, step \d+; try a smaller vae"
    ):
        train(VAE, data, lr=1e20)


@no_cuda
def test_cuda_asked_for_and_absent_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"compute.device is cuda, but PyTorch finds no usable CUDA"
    ):
        prepare(compute(device="cuda"))
    with pytest.raises(UserError, match=r"compute.precision is tf32, which needs CUDA"):
        prepare(compute(precision="tf32"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda b: b[:-1], "has 200,719 bytes where its header promises 200,720"),
        (lambda b: b[:10], "has 10 bytes where"),
        (lambda b: b"<html>" + b, "not an IDX file of images"),
    ],
)
def test_a_damaged_data_file_is_refused(change: Any, sentence: str, tmp_path: Path) -> None:
    for file in SAMPLE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damaged = tmp_path / "train-images-idx3-ubyte"
    damaged.write_bytes(change(damaged.read_bytes()))
    with pytest.raises(UserError, match=sentence) as caught:
        load_images(tmp_path, CPU)
    assert str(damaged) in str(caught.value)


def test_swapped_data_files_are_refused(tmp_path: Path) -> None:
    train, test = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
    for file in SAMPLE.iterdir():
        name = {train: test, test: train}.get(file.name, file.name)
        (tmp_path / name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="holds 128 images but"):
        load_images(tmp_path, CPU)


def test_binarised_images_are_black_and_white_by_their_values() -> None:
    grey = load_images(SAMPLE, CPU).train.images
    near = load_images(SAMPLE, CPU, binarize="threshold").train.images
    assert torch.equal(near, (grey > 127).to(torch.uint8) * 255)
    first, again, other = (
        load_images(SAMPLE, CPU, seed, "sampled").train.images for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    tests = [load_images(SAMPLE, CPU, seed, "sampled").test.images for seed in (0, 1)]
    assert torch.equal(*tests), "evaluations of all seeds look at the same"
    assert set(torch.unique(first).tolist()) == {0, 255}
    assert torch.equal(first[grey == 0], grey[grey == 0]), "black stays black"
    middle = (grey > 100) & (grey < 156)
    assert (first[middle] / 255).mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("model_class", REGISTRY.values())
def test_losses_have_one_order_in_training_and_test_and_which_can_choose_an_epoch_is_known(
    model_class: type[Model[Any]], data: ImageSet
) -> None:
    model = initialise(model_class, config(model_class), 0, CPU)
    images, rng = data.train.to_float(slice(0, 4)), torch.Generator()
    trained = [name for update in model.updates() for name in update.losses(images, rng)]
    assert list(model.test_losses(images, rng)) == trained
    # Of two networks that play against each other none: the lowest is where one has won.
    assert {*model.losses} == (set() if model_class is GAN else {*trained})
