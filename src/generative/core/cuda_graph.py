"""Training steps as one CUDA graph, replayed, where that gives the bits of single steps.

A graph is captured anew every epoch: what a model changes between epochs, as the weight of a loss,
is in it then.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from generative.core.loop import Steps

_BEFORE_CAPTURE = 3  # eager steps: libraries set themselves up, the optimizer makes its state

Step = Callable[[Tensor], Tensor]
"""From the numbers of a batch's images, (B,), to its mean losses, (terms,)."""


class Graphs:
    """What takes the steps of a training on CUDA."""

    def __init__(self, training: "Steps", compared: bool) -> None:
        """Take steps as `training.eager` does; if `compared`, by graphs that have the same bits."""
        self.replay: Step | None = None
        self._training, self._compared = training, compared
        self._steps_taken = 0
        self._may_capture = True

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._training.noise.device)  # type: ignore[no-untyped-call]

    @contextmanager
    def epoch(self) -> Iterator[Step]:
        """What takes the steps of an epoch, on a stream of its own: none else can be captured."""
        self.replay = None
        outside = torch.cuda.current_stream(self._training.noise.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield self.take
        outside.wait_stream(self._stream)

    def take(self, index: Tensor) -> Tensor:
        """Take one step; the last batch, which can be short, is never a graph's."""
        self._steps_taken += 1
        whole = len(index) == self._training.model.config.batch_size
        enough = self._steps_taken > _BEFORE_CAPTURE
        if whole and enough and self._may_capture and self.replay is None:
            self.replay = self._capture(index)
            self._may_capture = self.replay is not None
        return self.replay(index) if self.replay and whole else self._training.eager(index)

    def _capture(self, index: Tensor) -> Step | None:
        """A step as a CUDA graph, if it can be one that gives the same bits as the eager step."""
        training, noise = self._training, self._training.noise.get_state()
        try:
            graph = torch.cuda.CUDAGraph()
            place = index.clone()
            # Other threads may call CUDA meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                means = training.eager(place)
        except RuntimeError as error:
            # The old one may take itself to be captured still.
            training.noise = Generator(training.noise.device).set_state(noise)
            _say_why_not(str(error).partition("\n")[0].rstrip("."))
            return None

        def replay(index: Tensor) -> Tensor:
            place.copy_(index)
            graph.replay()
            return means.clone()  # the next replay writes over them

        if not self._compared or self.agree(training.eager, replay, index):
            self._compared = False  # in later epochs it does
            return replay
        _say_why_not("it gives other bits than single steps")
        return None

    def agree(self, first: Step, second: Step, index: Tensor) -> bool:
        """Do both change the model, the optimizer and the noise alike? Leaves all as it was."""
        outcomes = []
        for taken in (first, second):
            with self.restored() as tensors:
                results = [taken(index) for _ in range(2)]
                outcomes.append([*results, *(tensor.clone() for tensor in tensors)])
        pairs = zip(*outcomes, strict=True)
        return all(torch.equal(a, b) for a, b in pairs)

    @contextmanager
    def restored(self) -> Iterator[list[Tensor]]:
        """The tensors that steps change; as they were once this is over."""
        training = self._training
        states = [state for one in training.optimizers for state in one.state.values()]
        tensors = [*training.model.state_dict().values()]
        tensors += [value for state in states for value in state.values()]
        before, noise = [tensor.clone() for tensor in tensors], training.noise.get_state()
        try:
            yield tensors
        finally:
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
            training.noise.set_state(noise)


def _say_why_not(why: str) -> None:
    print(f"no CUDA graph ({why}): steps are taken one by one, more slowly.", file=sys.stderr)
