"""What several tests of the experiment share."""

import pytest
from workspaces import SAMPLE

from generative.core.compute import prepare
from generative.core.images import ImageSet, load_images
from models import compute


@pytest.fixture(scope="module")
def data() -> ImageSet:
    """The sample of MNIST, on the CPU: 256 images to train on, 128 to test."""
    return load_images(SAMPLE, prepare(compute()))
