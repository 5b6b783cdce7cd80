"""What a served model gives for what it is asked."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imports import imported_files, modules_imported
from workspaces import ROOT

from generative.core.model import Reconstructs
from generative.serving import _NEEDED, Reconstructor, Sampler, _served
from models import ae, gan, vae


def test_a_sampler_draws_an_image_a_seed_whatever_it_draws_besides() -> None:
    model = gan().eval()
    sampler = Sampler(model, model.shape)
    drawn = sampler.predict(np.array([3, 5, 3, 2**40]))
    assert drawn.shape == (4, 1, 28, 28)
    assert drawn.dtype == np.float32
    assert np.array_equal(drawn[0], drawn[2])
    assert np.array_equal(drawn[1:2], sampler.predict(np.array([5])))
    assert not np.allclose(drawn[0], drawn[1], atol=1e-2)
    assert not np.allclose(drawn[0], drawn[3], atol=1e-2)


def test_a_model_that_reconstructs_and_samples_draws_by_a_seed() -> None:
    model = vae().eval()
    served, images = Reconstructor(model, model.shape), np.zeros((3, 1, 28, 28), np.float32)
    given_back = served.predict(images, {"seed": None})
    assert np.array_equal(given_back, served.predict(images))
    assert np.array_equal(given_back[0], given_back[1])
    drawn = served.predict(images, {"seed": 3})
    assert drawn.shape == images.shape
    assert not np.allclose(drawn[0], drawn[1], atol=1e-2)
    assert np.array_equal(drawn, served.predict(images, {"seed": 3}))
    assert not np.array_equal(drawn, served.predict(images, {"seed": 4}))
    other = ae().eval()
    with pytest.raises(
        ValueError, match=r"^seed: this model draws no images of its own; leave it out\.$"
    ):
        Reconstructor(other, other.shape).predict(images, {"seed": 3})


@pytest.mark.parametrize("make", [ae, vae, gan])
def test_what_a_models_file_says_of_it_is_so(make: Any, tmp_path: Path) -> None:
    """It is packed by what its file says, without building it."""
    model = make()
    (tmp_path / "model.safetensors").write_bytes(model.to_bytes())
    gives_back = isinstance(model, Reconstructs)
    assert _served(tmp_path / "model.safetensors") == (model.shape, gives_back)


def test_a_packed_model_names_the_packages_that_its_code_imports() -> None:
    files = imported_files(ROOT / "src/generative/models/registry.py", ROOT)
    imported = {name for file in files for name in modules_imported((ROOT / file).read_text())}
    outside = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert outside - {"generative"} <= {name.partition(".")[0] for name in _NEEDED}
