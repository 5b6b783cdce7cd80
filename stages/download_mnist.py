"""DVC stage download-mnist."""

import checkout  # noqa: F401  (first: it decides whose code runs)

from generative.pipeline.download import download_data
from generative.pipeline.stage import run

if __name__ == "__main__":
    run(download_data)
