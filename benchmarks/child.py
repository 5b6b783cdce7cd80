"""One measurement in a process of its own, in a workspace that bench.py made; prints JSON."""

import argparse
import json
import os
import resource
import runpy
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from generative.core import loop as steps
from generative.core.compute import Compute, autocast, generator, prepare
from generative.core.config import Data, Params
from generative.core.images import ImageSet, Split, load_images
from generative.core.loop import fit, initialise, make_optimizers
from generative.core.model import Autoencoder, Losses, Model
from generative.models.registry import REGISTRY

_BLOCK, _BLOCKS = 25, 16  # steps a block; blocks of each kind, alternating


class Bench:
    """The workspace's parameters and data."""

    def __init__(self, model: str, times: int, images: int | None) -> None:
        params = Params()
        self.seed, self.compute = params.seed(), params.section("compute", Compute)
        self.device = prepare(self.compute)
        self.model_class = REGISTRY[model]
        self.config = params.section(model, self.model_class.config_class)
        self.directory = params.section("data", Data).directory
        data = load_images(self.directory, self.device)
        train = Split(data.train.images.repeat(times, 1, 1, 1)[:images], None)
        self.data = ImageSet(train, data.test)

    def untrained(self) -> Model[Any]:
        """A new model."""
        return initialise(self.model_class, self.config, self.seed, self.device)

    def epochs(self, data: ImageSet) -> Iterator[float]:
        """Seconds of each epoch of our loop, without a record and without a tracker."""
        model = self.untrained()
        optimizers = make_optimizers(model)
        started = time.perf_counter()
        for _ in fit(
            model,
            optimizers,
            data,
            self.seed,
            self.compute,
            self.device,
            range(1, model.config.epochs + 1),
        ):
            yield time.perf_counter() - started
            started = time.perf_counter()

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def usual(bench: Bench) -> list[float]:
    """Seconds of each epoch of the usual way."""
    import usual

    warnings.filterwarnings("ignore", "This DataLoader will create")  # four workers are the usual
    model = usual.plain(bench.untrained())
    torch.set_deterministic_debug_mode("default")  # the usual way does not ask for it
    assert isinstance(model, Autoencoder), "the usual way is written for one objective"
    with tempfile.TemporaryDirectory() as folder:
        return list(usual.train(model, bench.device, bench.directory, Path(folder)))


def loop(bench: Bench) -> list[float]:
    """Seconds of each epoch of our loop alone."""
    return list(bench.epochs(bench.data))


def trained(bench: Bench) -> list[float]:
    """Seconds of each epoch's training alone: our steps."""
    model = bench.untrained()
    data, seconds = bench.data.train, []
    ours = steps.Steps(model, make_optimizers(model), data, bench.compute, bench.device)
    for number in range(1, bench.config.epochs + 1):
        started = time.perf_counter()
        ours.epoch(bench.seed, number).cpu()
        seconds.append(time.perf_counter() - started)
    return seconds


def plain(bench: Bench) -> list[float]:
    """Seconds of each epoch's training with PyTorch's own layers and Adam, images resident."""
    return list(_of_torch(bench, compiled=False))


def compiled(bench: Bench) -> list[float]:
    """The same with losses compiled, less where they draw noise; the first compiles."""
    return list(_of_torch(bench, compiled=True))


def _of_torch(bench: Bench, *, compiled: bool) -> Iterator[float]:
    import usual

    model = usual.plain(bench.untrained()).train()
    torch.set_deterministic_debug_mode("default")
    updates = model.updates()
    adams = [usual.plain_adam(update) for update in updates]
    noise = generator(bench.device, bench.seed, "noise")
    losses_of: list[Callable[..., Losses]] = [
        torch.compile(update.losses, dynamic=False) if compiled else update.losses
        for update in updates
    ]
    for _ in range(bench.config.epochs):
        started = time.perf_counter()
        order, means = torch.randperm(len(bench.data.train)), []
        for index in torch.split(order, bench.config.batch_size):
            images = bench.data.train.to_float(index)
            for update, losses_in, adam in zip(updates, losses_of, adams, strict=True):
                losses = losses_in(images, noise)
                adam.zero_grad()
                update.objective(losses).backward()  # type: ignore[no-untyped-call]
                adam.step()
                means += [steps.batch_means(losses)]
        assert torch.cat(means).isfinite().all()
        yield time.perf_counter() - started


def floor(bench: Bench) -> list[float]:
    """Seconds of an epoch's steps and test losses, all on one batch that is there already."""
    model, size, seconds = bench.untrained(), bench.config.batch_size, []
    optimizers = make_optimizers(model)
    noise = generator(bench.device, bench.seed, "floor")
    images = bench.data.train.to_float(slice(0, size))
    for _ in range(bench.config.epochs):
        started = time.perf_counter()
        model.train()
        for _ in range(-(-len(bench.data.train) // size)):
            for update, optimizer in zip(model.updates(), optimizers, strict=True):
                with autocast(bench.compute, bench.device):
                    losses = update.losses(images, noise)
                steps.step(update, optimizer, losses)
        model.eval()
        with torch.inference_mode(), autocast(bench.compute, bench.device):
            for _ in range(-(-len(bench.data.test) // size)):
                model.test_losses(images, noise)
        bench.wait()
        seconds.append(time.perf_counter() - started)
    return seconds


def one_step(bench: Bench) -> dict[str, float]:
    """Seconds of a step, medians: ours, the plain eager one, and the matrix products alone."""
    import usual

    images = bench.data.train.to_float(slice(0, bench.config.batch_size))
    noise = generator(bench.device, bench.seed, "steps")
    ours, plain = bench.untrained(), usual.plain(bench.untrained())
    (update,), (own,) = ours.updates(), make_optimizers(ours)
    (plain_update,) = plain.updates()
    adam = usual.plain_adam(plain_update)

    def step_of_ours() -> None:
        torch.set_deterministic_debug_mode("error" if bench.compute.deterministic else "default")
        steps.step(update, own, update.losses(images, noise))

    def step_of_plain() -> None:
        torch.set_deterministic_debug_mode("default")
        steps.step(plain_update, adam, plain_update.losses(images, noise))

    kinds: dict[str, Callable[[], None]] = {
        "ours": step_of_ours,
        "plain": step_of_plain,
        "products": matrix_products(ours, len(images), bench.device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for block in range(_BLOCKS + 1):
        for name, once in kinds.items():
            started = time.perf_counter()
            for _ in range(_BLOCK):
                once()
            bench.wait()
            if block:  # the first warms up
                seconds[name].append((time.perf_counter() - started) / _BLOCK)
    return {name: statistics.median(values) for name, values in seconds.items()}


def matrix_products(model: Model[Any], batch: int, device: torch.device) -> Callable[[], None]:
    """The products of the linear layers, forward and backward, and nothing else."""
    tensors = [
        (
            torch.randn(batch, layer.in_features, device=device),
            torch.randn(layer.out_features, layer.in_features, device=device),
            torch.randn(batch, layer.out_features, device=device),
        )
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear)
    ]

    def run() -> None:
        for inputs, weight, _ in tensors:
            torch.mm(inputs, weight.T)
        for number, (inputs, weight, gradient) in reversed([*enumerate(tensors)]):
            torch.mm(gradient.T, inputs)
            if number:  # nobody asks for the images' gradient
                torch.mm(gradient, weight)

    return run


def growth(bench: Bench) -> dict[str, float]:
    """Seconds of one epoch, after a short one that warms up; peak memory and the images' bytes."""
    train = bench.data.train
    few = ImageSet(Split(train.images[:2048], None), bench.data.test)
    next(bench.epochs(few))
    seconds = next(bench.epochs(bench.data))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak": peak, "bytes": train.images.nbytes}


def first_step(model: str) -> None:
    """Run the stage as dvc does, up to its first step; prints the moment that began."""

    def begin(*_: object) -> None:
        print(json.dumps(time.perf_counter()), flush=True)
        os.dup2(2, 1)  # what the run's end says is no measurement
        raise SystemExit

    steps.step = begin  # type: ignore[assignment]
    sys.argv = [f"stages/train_{model}.py"]
    sys.path.insert(0, "stages")
    runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    """Measure what the arguments say."""
    kinds = {
        kind.__name__: kind
        for kind in (usual, loop, trained, plain, compiled, floor, one_step, growth)
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=[*kinds, "first_step"])
    parser.add_argument("model", choices=REGISTRY)
    parser.add_argument("--times", type=int, default=1, help="the training images so many times")
    parser.add_argument("--images", type=int, help="the first so many of them")
    arguments = parser.parse_args()
    if arguments.kind == "first_step":
        first_step(arguments.model)
    else:
        bench = Bench(arguments.model, arguments.times, arguments.images)
        print(json.dumps(kinds[arguments.kind](bench)))


if __name__ == "__main__":
    main()
