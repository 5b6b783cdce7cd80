"""DVC stage train-ae."""

import checkout  # noqa: F401  (first: it decides whose code runs)

from generative.models.ae import AE
from generative.stage import run_stage
from generative.training_run import train

if __name__ == "__main__":
    run_stage(lambda: train(AE))
