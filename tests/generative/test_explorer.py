"""The latent explorer: what is in the page, and what it computes in a browser."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from playwright.sync_api import Page
from torch import Tensor, nn

from generative.core.images import ImageSet, Split
from generative.core.loop import fit, initialise, make_optimizers
from generative.core.model import Encodes, HasElbo, Model
from generative.evaluation import explorer
from generative.evaluation.explorer import explorer_page, floats, scaled
from generative.evaluation.likelihood import likelihood
from generative.evaluation.probes import latents_of
from generative.evaluation.suite import Evaluated
from generative.models.vae import VAE
from models import CPU, ae, compute, evaluation, gan, vae

MEGABYTE = 2**20


def evaluated(model: Model[Any], test: Split) -> Evaluated:
    """A model as the evaluation gives it, less its metrics."""
    latents = latents_of(model, test, 100) if isinstance(model, Encodes) else None
    told = likelihood(model, test, evaluation(), 0) if isinstance(model, HasElbo) else None
    return Evaluated(model, {}, latents, {}, told, {})


def page_of(found: Evaluated, test: Split) -> str:
    page = explorer_page(found, test, 0)
    assert page is not None
    assert page == explorer_page(found, test, 0), "equal input, equal bytes"
    return page.decode()


def facts_of(page: str) -> dict[str, Any]:
    found = re.search(r'id="facts">(.*?)</script>', page)
    assert found
    facts: dict[str, Any] = json.loads(found[1])
    return facts


@pytest.fixture(scope="module")
def found(data: ImageSet) -> Evaluated:
    """The default VAE, trained so briefly that it knows a little of the digits."""
    settings = vae().config.model_copy(update={"epochs": 8, "batch_size": 32})
    model = initialise(VAE, settings, 0, CPU, data.shape)
    for _ in fit(model, make_optimizers(model), data, 0, compute(), CPU, iter(range(1, 9))):
        pass
    return evaluated(model.eval(), data.test)


def test_the_page_has_the_active_dimensions_and_fits(found: Evaluated, data: ImageSet) -> None:
    assert found.likelihood
    few = replace(found.likelihood, active=[place < 20 for place in range(200)])
    page = page_of(replace(found, likelihood=few), data.test)
    facts = facts_of(page)
    assert facts["shown"] == few.order[:24], "and four that are not"
    assert (len(facts["kl"]), len(facts["images"])) == (200, len(data.test))
    assert facts["encoder"][-1] == {"linear": [24, 400]}
    assert len(page) < 3 * MEGABYTE


def test_without_room_for_the_encoder_there_is_the_decoder_and_without_that_nothing(
    found: Evaluated, data: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer, "_WEIGHTS", 2 * MEGABYTE)
    assert facts_of(page_of(found, data.test))["encoder"] is None
    monkeypatch.setattr(explorer, "_WEIGHTS", MEGABYTE)
    assert explorer_page(found, data.test, 0) is None


class Convolving(VAE):
    """Of layers that the page does not know."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.encoder.insert(0, nn.Conv2d(1, 1, 1))


class Otherwise(VAE):
    """That decodes by more than its decoder."""

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents) + 0.1


@pytest.mark.parametrize(
    "model",
    [ae(), gan(), Convolving(vae(4).config), Otherwise(vae(4).config)],
    ids=["autoencoder", "adversarial network", "convolutions", "its own decode"],
)
def test_of_other_models_there_is_none(model: Model[Any], data: ImageSet) -> None:
    assert explorer_page(evaluated(model.eval(), data.test), data.test, 0) is None


@pytest.mark.parametrize(("shape", "latent_dim"), [((3, 16, 16), 1), ((1, 8, 13), 2)])
def test_other_images_and_few_dimensions_have_a_page_too(
    shape: tuple[int, int, int], latent_dim: int
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, *shape))
    test = Split(torch.tensor(images, dtype=torch.uint8), None)
    model = VAE(vae(latent_dim, hidden_dim=8).config, shape).eval()
    facts = facts_of(page_of(evaluated(model, test), test))
    assert (facts["shape"], facts["labels"]) == ([*shape], None)
    assert len(facts["shown"]) == latent_dim


def test_numbers_are_as_close_as_their_packing_says() -> None:
    matrix = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    matrix[2] = 0
    for packing, size, close in ((floats, 3 * 35, 8e-6), (scaled, 2 * 35 + 4 * 5, 1e-4)):
        read, content = packing(matrix)
        assert len(content) == size
        np.testing.assert_allclose(read, matrix, rtol=close, atol=close)


class Opened(NamedTuple):
    page: Page
    model: VAE
    test: Split

    def told(self, name: str) -> Any:
        return self.page.evaluate(f"window.explorer.{name}")

    def latent(self) -> Tensor:
        return torch.tensor(self.told("latent"))

    @torch.inference_mode()
    def assert_decoded(self) -> None:
        """The page's image of its latent is PyTorch's."""
        expected = torch.sigmoid(self.model.decode(self.latent()[None]))
        off = torch.tensor(self.told("decoded")) - expected.flatten()
        assert off.abs().max().item() < 1e-4

    @torch.inference_mode()
    def assert_encoded(self, image: Tensor) -> None:
        """The page's latent is PyTorch's of an image, in the dimensions that the page has."""
        shown = self.page.evaluate("facts.shown")
        off = (self.latent() - self.model.encode(image[None])[0])[shown]
        assert off.abs().max().item() < 1e-3


@pytest.fixture
def opened(found: Evaluated, data: ImageSet, page: Page, tmp_path: Path) -> Iterator[Opened]:
    path = tmp_path / "explorer.html"
    path.write_text(page_of(found, data.test))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]")
    assert isinstance(found.model, VAE)
    yield Opened(page, found.model, data.test)
    assert errors == []
    assert [url for url in requests if not url.startswith("blob:")] == [path.as_uri()]


def drag(page: Page, selector: str, *points: tuple[float, float]) -> None:
    """Through points of an element, in parts of its width and height."""
    element = page.locator(selector)
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    assert box
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def test_what_is_dragged_to_is_decoded_as_by_pytorch(opened: Opened) -> None:
    before = opened.latent()
    drag(opened.page, "#plane", (0.5, 0.5), (0.8, 0.3), (0.2, 0.7))
    after = opened.latent()
    assert (after - before).norm() > 0.1
    opened.assert_decoded()
    opened.page.locator("#plane").press("ArrowUp")
    assert not torch.equal(opened.latent(), after)
    opened.assert_decoded()
    for dimensions in (("2", "3"), ("2", "2")):
        opened.page.locator("#across").select_option(dimensions[0])
        opened.page.locator("#up").select_option(dimensions[1])
        drag(opened.page, "#plane", (0.5, 0.5), (0.9, 0.1))
        opened.assert_decoded()
    for button in ("#zero", "#middle", "#random"):
        opened.page.locator(button).click()
        opened.assert_decoded()

    first = opened.page.evaluate("facts.shown[0]")
    opened.page.locator("#zero").click()
    before = opened.latent()
    opened.page.get_by_label(f"dimension {first}: KL", exact=False).press("ArrowRight")
    assert (opened.latent() - before).nonzero().flatten().tolist() == [first], "a slider's alone"
    opened.assert_decoded()


def test_a_clicked_test_image_and_a_drawing_are_encoded_as_by_pytorch(opened: Opened) -> None:
    x, y = opened.told("point(3)")
    opened.page.locator("#plane").click(position={"x": x + 1, "y": y + 1})
    number = opened.told("image")
    assert number in opened.told("images")
    opened.assert_encoded(opened.test.to_float(slice(number, number + 1))[0])
    opened.assert_decoded()
    label = f"class {opened.test.labels[number]}" if opened.test.labels is not None else ""
    assert f"test image {number}, {label}" in opened.page.locator("#what").inner_text()

    drag(opened.page, "#draw", (0.3, 0.25), (0.7, 0.25), (0.45, 0.8))
    drawn = torch.tensor(opened.told("drawn")).reshape(1, 28, 28)
    assert drawn.max() == 1
    assert 0.03 < (drawn > 0.5).float().mean() < 0.3
    opened.assert_encoded(drawn)
    opened.assert_decoded()
    for width in (1200, 400):
        opened.page.set_viewport_size({"width": width, "height": 800})
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
