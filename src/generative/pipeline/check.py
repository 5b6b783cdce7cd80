"""`generative check`: is params.yaml right, before the first stage starts?"""

import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from generative.checks import check_choice
from generative.core.compute import Compute
from generative.core.config import PIPELINE_FILE, Data, Params, Section, Splitting
from generative.core.idx import sha256_of
from generative.data.download import check_source
from generative.data.sources import SourceFailed, from_own
from generative.errors import RunFailed, UserError
from generative.evaluation.config import EvaluationConfig
from generative.models.registry import REGISTRY
from generative.wording import read_yaml
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
    stages = read_yaml(PIPELINE_FILE).get("stages") or {}
    for name, model in REGISTRY.items():
        if f"train-{name}" not in stages:
            continue
        config = params.section(name, model.config_class)
        check_choice(name, config, model.losses, apart)


def print_sum(source: str) -> None:
    """Print the SHA-256 that pins images of one's own, for `data.sha256`.

    Raises:
        UserError: that is no folder and no address.
        RunFailed: it holds something else than images of one kind and size.
    """
    data = Data(name="mine", source=source, sha256=None, binarize="none")
    check_source(data)
    with TemporaryDirectory() as folder:
        try:
            from_own(source, Path(folder))
        except SourceFailed as error:
            raise RunFailed(f"{source}: {error}.") from None
        print(sha256_of(Path(folder)))


def main() -> None:
    """The command line."""
    match sys.argv[1:]:
        case ["check"]:
            sys.exit(exit_status(check, mistakes=(UserError,), failures=(RunFailed,)))
        case ["hash", source]:
            command = partial(print_sum, source)
            sys.exit(exit_status(command, mistakes=(UserError,), failures=(RunFailed,)))
    print("usage: generative check        is params.yaml right?")
    print("       generative hash FOLDER  the SHA-256 of your images, for data.sha256")
    print("all other commands: runrecord --help")
    sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
