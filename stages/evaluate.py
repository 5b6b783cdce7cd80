"""DVC stage evaluate."""

import checkout  # noqa: F401  (first: it decides whose code runs)

from generative.pipeline.evaluate import evaluate_all
from generative.pipeline.stage import run

if __name__ == "__main__":
    run(evaluate_all)
