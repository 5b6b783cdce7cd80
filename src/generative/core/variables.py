"""What libraries read from the environment when they are loaded: set before any of them is.

`stages/checkout.py` does it, first in each stage.
"""

import os
from contextlib import suppress
from pathlib import Path

from generative.errors import UserError, read_yaml

PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
"""Under `compute.portable`: the kernels that every x86-64 processor with AVX2 has."""

SPINS = "10000"
"""How often a thread looks whether the others are done before it sleeps.

By itself it is 300,000 times: beside another busy process it then waits for one that is not
running, and a step can take forty times as long. It changes no number. docs/performance.md has what
it costs.
"""


def set_variables(params: Path) -> None:
    """Set this process up for libraries that are loaded after this, as the file `params` says."""
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = SPINS
    with suppress(UserError, OSError, AttributeError):  # who reads all of it says what is wrong
        if read_yaml(params).get("compute", {}).get("portable") is True:
            os.environ.update(PORTABLE)
            for name in ("OMP_DYNAMIC", "OMP_THREAD_LIMIT"):  # there would be fewer threads
                os.environ.pop(name, None)
