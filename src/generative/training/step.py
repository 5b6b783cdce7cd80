"""The steps of an epoch, with nothing between them: on CUDA one graph, replayed; else eager."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from generative.data.dataset import Split
from generative.models.base import Losses, Model, Update
from generative.rng import generator, reseed
from generative.training.runtime import Compute, autocast

_BEFORE_CAPTURE = 3  # eager steps: libraries set themselves up, the optimizer makes its state

Step = Callable[[Tensor], Tensor]
"""From the numbers of a batch's images, (B,), to its mean losses, (terms,)."""


class Steps:
    """The training steps of one model. Losses stay on the device; nothing waits for it."""

    def __init__(
        self,
        model: Model[Any],
        optimizers: Sequence[Optimizer],
        split: Split,
        compute: Compute,
        device: torch.device,
    ) -> None:
        self.names: list[str] = []
        """Of the losses, known once a step was taken."""
        self._model, self._optimizers, self._split = model, optimizers, split
        self._updates = model.updates()
        self._compute, self._device = compute, device
        self._noise = Generator(device)
        self._steps_taken = 0
        self._replay: Step | None = None
        self._may_capture = device.type == "cuda"
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":  # where graphs are not captured on the default stream
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def epoch(self, seed: int, number: int) -> Tensor:
        """Train on every image once, in an order and with noise of this epoch's own.

        Returns each loss's mean over each batch, (steps, terms), on the device.
        """
        stream = generator(self._device, seed, "order", number)
        order = torch.randperm(len(self._split), generator=stream, device=self._device)
        reseed(self._noise, seed, "noise", number)
        self._model.train()
        batches = torch.split(order, self._model.config.batch_size)
        with self._on_stream():
            return torch.stack([self._take(index) for index in batches])

    def eager(self, index: Tensor) -> Tensor:
        """Take one step: each of the model's updates, in order."""
        images = self._split.to_float(index)
        taken: dict[str, Tensor] = {}
        for update, optimizer in zip(self._updates, self._optimizers, strict=True):
            for _ in range(update.times):
                with autocast(self._compute, self._device):
                    losses = update.losses(images, self._noise)
                step(update, optimizer, losses)
            taken |= losses
        self.names = list(taken)
        return batch_means(taken)

    def _take(self, index: Tensor) -> Tensor:
        self._steps_taken += 1
        whole = len(index) == self._model.config.batch_size  # the last batch can be short
        if self._stream and whole and self._may_capture and self._steps_taken > _BEFORE_CAPTURE:
            self._may_capture = False
            self._replay = self._capture(index, self._stream)
        if self._replay and whole:
            return self._replay(index)
        return self.eager(index)

    def _capture(self, index: Tensor, stream: torch.cuda.Stream) -> Step | None:
        """A step as a CUDA graph, if it can be one that gives the same bits as the eager step."""
        try:
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self._noise)
            place = index.clone()
            # Other threads may call CUDA meanwhile: MLflow is imported beside training.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                means = self.eager(place)
        except RuntimeError as error:
            _say_why_not(str(error).partition("\n")[0].rstrip("."))
            return None

        def replay(index: Tensor) -> Tensor:
            place.copy_(index)
            graph.replay()
            return means.clone()  # the next replay writes over them

        if not self._compute.deterministic or self.agree(self.eager, replay, index):
            return replay
        _say_why_not("it gives other bits than single steps")
        return None

    def agree(self, first: Step, second: Step, index: Tensor) -> bool:
        """Do both change the model, the optimizer and the noise alike? Leaves all as it was."""
        outcomes = []
        for taken in (first, second):
            with self._restored() as tensors:
                results = [taken(index) for _ in range(2)]
                outcomes.append([*results, *(tensor.clone() for tensor in tensors)])
        pairs = zip(*outcomes, strict=True)
        return all(torch.equal(a, b) for a, b in pairs)

    @contextmanager
    def _restored(self) -> Iterator[list[Tensor]]:
        """The tensors that steps change; as they were once this is over."""
        states = [state for one in self._optimizers for state in one.state.values()]
        tensors = [*self._model.state_dict().values()]
        tensors += [value for state in states for value in state.values()]
        before, noise = [tensor.clone() for tensor in tensors], self._noise.get_state()
        try:
            yield tensors
        finally:
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
            self._noise.set_state(noise)

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def step(update: Update, optimizer: Optimizer, losses: Losses) -> None:
    """Follow the gradient of an update's objective once."""
    optimizer.zero_grad()
    update.objective(losses).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        optimizer.step()


def batch_means(losses: Losses) -> Tensor:
    """The mean of each loss over the batch, (terms,)."""
    return torch.stack([values.detach().mean() for values in losses.values()])


def _say_why_not(why: str) -> None:
    print(f"no CUDA graph ({why}): steps are taken one by one, more slowly.", file=sys.stderr)
