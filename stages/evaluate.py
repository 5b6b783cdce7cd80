"""DVC stage evaluate."""

import checkout  # noqa: F401  (first: it decides whose code runs)

from generative.evaluation.run import evaluate_all
from generative.stage import run_stage

if __name__ == "__main__":
    run_stage(evaluate_all)
