"""DVC stage download-mnist."""

import checkout  # noqa: F401  (first: it decides whose code runs)

from generative.config import Params
from generative.data.download import download
from generative.data.mnist import Data
from generative.pipeline.stage import run

if __name__ == "__main__":
    run(lambda: download(Params().section("data", Data)))
