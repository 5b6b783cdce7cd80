"""DVC stage train-vae."""

import checkout  # noqa: F401  (first: it decides whose code runs)

from generative.models.vae import VAE
from generative.stage import run_stage
from generative.training_run import train

if __name__ == "__main__":
    run_stage(lambda: train(VAE))
