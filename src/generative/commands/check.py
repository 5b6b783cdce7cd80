"""`generative check`: is params.yaml right, before the first stage starts?"""

from generative.compute import Compute
from generative.evaluation.config import EvaluationConfig
from generative.mnist_files import Data
from generative.models.registry import REGISTRY
from generative.params import Params


def check() -> None:
    """Validate every block of params.yaml, also those of stages that come last.

    Raises:
        UserError: naming what is wrong.
    """
    params = Params()
    params.seed()
    for name, schema in (("data", Data), ("compute", Compute), ("evaluate", EvaluationConfig)):
        params.section(name, schema)
    for name, model in REGISTRY.items():
        params.section(name, model.config_class)
