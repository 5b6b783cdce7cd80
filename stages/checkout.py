"""Puts this checkout's own `src` first: each stage imports it before anything else.

An editable install points at the main checkout, also from the copies that DVC makes for
`dvc exp run --temp` and its queue; their stages must run their own code.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from generative.core.variables import set_variables

set_variables(Path("params.yaml"))
