"""DVC stage train-gan."""

import checkout  # noqa: F401  (first: it decides whose code runs)

from generative.models.gan import GAN
from generative.pipeline.stage import run
from generative.pipeline.train import train

if __name__ == "__main__":
    run(lambda: train(GAN))
