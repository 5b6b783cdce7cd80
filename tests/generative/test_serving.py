"""What a served model gives for what it is asked."""

import numpy as np

from generative.serving import Sampler
from models import gan


def test_a_sampler_draws_an_image_a_seed_whatever_it_draws_besides() -> None:
    model = gan().eval()
    sampler = Sampler(model, model.shape)
    drawn = sampler.predict(np.array([3, 5, 3, 2**40]))
    assert drawn.shape == (4, 1, 28, 28)
    assert drawn.dtype == np.float32
    assert np.array_equal(drawn[0], drawn[2])
    assert np.array_equal(drawn[1:2], sampler.predict(np.array([5])))
    for one, other in ((0, 1), (0, 3), (1, 3)):
        assert not np.allclose(drawn[one], drawn[other], atol=1e-2)
