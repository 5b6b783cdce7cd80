"""DVC stage train-vae."""

import checkout  # noqa: F401  (first: it decides whose code runs)

from generative.models.vae import VAE
from generative.pipeline.stage import run
from generative.pipeline.train import train

if __name__ == "__main__":
    run(lambda: train(VAE))
