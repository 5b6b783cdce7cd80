"""`generative check`: is params.yaml right, before the first stage starts?"""

import sys

from generative.checks import check_choice
from generative.core.compute import Compute
from generative.core.config import Data, Params, Section, Splitting
from generative.data.download import check_source
from generative.errors import RunFailed, UserError
from generative.evaluation.config import EvaluationConfig
from generative.models.registry import REGISTRY
from runrecord.run.process import exit_status


def check() -> None:
    """Validate every block of params.yaml, also those of stages that come last.

    Raises:
        UserError: naming what is wrong.
    """
    params = Params()
    params.seed()
    blocks: dict[str, type[Section]] = {
        "data": Data,
        "compute": Compute,
        "evaluate": EvaluationConfig,
    }
    for name, schema in blocks.items():
        params.section(name, schema)
    apart = params.section("split", Splitting).validation
    check_source(params.section("data", Data))
    for name, model in REGISTRY.items():
        config = params.section(name, model.config_class)
        check_choice(name, config, model.losses, apart)


def main() -> None:
    """The command line."""
    if sys.argv[1:] != ["check"]:
        print("usage: generative check    (all other commands: runrecord --help)")
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    sys.exit(exit_status(check, mistakes=(UserError,), failures=(RunFailed,)))
