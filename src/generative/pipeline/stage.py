"""What a stage is to a person and to its record: its files, its run, its lines on the console.

Decides no result.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from generative.core.config import Data, Params, Splitting
from generative.errors import RunFailed, UserError
from runrecord import Dataset, Run, start_run
from runrecord.run.process import run_stage

if TYPE_CHECKING:
    import torch

    from generative.core.compute import Compute

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


def run(main: Callable[[], None]) -> NoReturn:
    """Run a stage's `main` and exit with its status."""
    run_stage(main, mistakes=(UserError,), failures=(RunFailed,))


@contextmanager
def tracked(
    stage: str,
    params: Params,
    compute: "Compute",
    device: "torch.device",
    digest: str,
    shown: Mapping[str, object],
) -> Iterator[Run]:
    """The run of a stage, as dvc.yaml names it, on images of that digest.

    It shows what every stage uses of `params`, and `shown`.
    """
    from generative.hardware import describe_device

    data, apart = params.section("data", Data), params.section("split", Splitting).validation
    used = {"binarize": data.binarize, "validation": apart}
    hardware = describe_device(device)
    kind = "device.name" if device.type == "cuda" else "cpu.capability"
    with start_run(
        stage,
        params={"seed": params.seed(), **compute.model_dump(), **used, **shown},
        dataset=Dataset(data.name, digest, str(data.directory)),
        tags=hardware,
        device=f"{device.type} {hardware[kind]}",
        length="epochs",  # nothing in an epoch depends on how many there are
    ) as run:
        print(f"{stage}: {compute.threads} threads, {device.type} ({hardware['device.name']})")
        yield run


class ShowEpoch(Protocol):
    """Shows one finished epoch."""

    def __call__(self, epoch: int, means: Mapping[str, float], seconds: float) -> None: ...


@contextmanager
def epochs_shown(name: str, total: int) -> Iterator[ShowEpoch]:
    """Show `total` epochs of training `name`: a line an epoch, and on a terminal a bar."""
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
