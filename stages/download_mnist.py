"""DVC stage download-mnist."""

import checkout  # noqa: F401  (first: it decides whose code runs)

from generative.download import download
from generative.mnist_files import Data
from generative.params import Params
from generative.stage import run_stage

if __name__ == "__main__":
    run_stage(lambda: download(Params().section("data", Data)))
