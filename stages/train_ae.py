"""DVC stage train-ae."""

import checkout  # noqa: F401  (first: it decides whose code runs)

from generative.models.ae import AE
from generative.pipeline.stage import run
from generative.pipeline.train import train

if __name__ == "__main__":
    run(lambda: train(AE))
