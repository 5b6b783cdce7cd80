"""What a stage is to a person and to its record: its files, its run, its lines on the console.

Decides no result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from generative.core.config import Data, Params, Splitting
from generative.core.idx import files_in
from generative.errors import RunFailed, UserError
from runrecord import Dataset, Run, start_run
from runrecord.files import sha256
from runrecord.run.process import run_stage

if TYPE_CHECKING:
    import torch

    from generative.core.compute import Compute
    from generative.core.model import ModelConfig

EVALUATION_FILE = Path("metrics/evaluation.json")
PICTURES_DIR = Path("metrics/pictures")
EXPLORER_FILE = Path("metrics/explorer.html")


def model_path(model: str) -> Path:
    """The weights and the config."""
    return Path("models") / f"{model}.safetensors"


def metrics_path(model: str) -> Path:
    """The last epoch's losses."""
    return Path("metrics") / f"{model}.json"


def history_path(model: str) -> Path:
    """Every epoch's losses."""
    return Path("metrics") / f"{model}_history.csv"


def digest_of(directory: Path) -> str:
    """A digest of the files of a data set."""
    digests = "".join(sha256(path) for path in files_in(directory))
    return sha256(digests.encode())[:32]  # MLflow takes at most 36


def run(main: Callable[[], None]) -> NoReturn:
    """Run a stage's `main` and exit with its status."""
    run_stage(main, mistakes=(UserError,), failures=(RunFailed,))


@contextmanager
def tracked(
    stage: str,
    params: Params,
    compute: "Compute",
    device: "torch.device",
    shown: Mapping[str, object],
) -> Iterator[Run]:
    """The run of a stage, by its name in dvc.yaml; it has what all use of `params`, and `shown`."""
    from generative.hardware import describe_device

    data, apart = params.section("data", Data), params.section("split", Splitting).validation
    used = {"binarize": data.binarize, "validation": apart}
    hardware = describe_device(device)
    kind = "device.name" if device.type == "cuda" else "cpu.capability"
    with start_run(
        stage,
        params={"seed": params.seed(), **compute.model_dump(), **used, **shown},
        dataset=Dataset(data.name, digest_of(data.directory), str(data.directory)),
        tags=hardware,
        device=f"{device.type} {hardware[kind]}",
        length="epochs",  # nothing in an epoch depends on how many there are
    ) as run:
        print(f"{stage}: {compute.threads} threads, {device.type} ({hardware['device.name']})")
        yield run


@contextmanager
def removed_on_failure(*paths: Path) -> Iterator[None]:
    """Nobody takes the losses of a training that ends badly for its results."""
    try:
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def show_choice(
    name: str, config: "ModelConfig", history: Mapping[str, Sequence[float]], kept: int
) -> None:
    """Show which epoch of a model is kept, and why training ended early where it did."""
    losses, total = history[config.keep], config.epochs
    lowest, ended = losses[kept - 1], len(losses)
    line = f"{name}: epoch {kept} is kept, with the lowest {config.keep}, {lowest:.4f}"
    if ended < total:
        line += f"; training ended after epoch {ended} of {total}: patience is {config.patience}"
    print(line)


@contextmanager
def epochs_shown(
    name: str, total: int
) -> Iterator[Callable[[int, Mapping[str, float], float], None]]:
    """What shows an epoch of training `name`, its means and seconds; on a terminal a bar too."""
    console = Console(soft_wrap=True, highlight=False)
    bar = Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task(name, total=total)

    def show(epoch: int, means: Mapping[str, float], seconds: float) -> None:
        losses = "  ".join(f"{key} {value:.4f}" for key, value in means.items())
        console.print(f"{name} epoch {epoch}/{total}  {losses}  {seconds:.1f} s", markup=False)
        bar.update(task, completed=epoch)  # a resumed training does not begin at 1

    with bar:
        yield show
