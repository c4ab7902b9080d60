"""Batches one ahead of their use, so that copies to the device run beside the step before."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.stream import Batch, Stream


@dataclass(frozen=True)
class Taken:
    """A batch, what the loss needs of it on the device, and the run positions that it covers on all processes."""

    batch: Batch
    inputs: tuple[Tensor, ...]
    start: int
    stop: int


class Ahead:
    """Takes batches from a stream.

    `inputs` maps a batch to tensors on the device. It runs before the step of the batch before has ended, and for a
    batch that may never be trained on: what it gives may depend on nothing but the batch.
    """

    def __init__(self, stream: Stream, inputs: Callable[[Batch], tuple[Tensor, ...]], device: torch.device) -> None:
        self._stream = stream
        self._inputs = inputs
        self._batches: Iterator[Batch] = iter(stream)
        self._beside = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: Taken | None = None
        self.waited = 0.0
        """Seconds that this process has waited for the stream."""

    def fetch(self) -> None:
        """Get the next batch, and begin to copy it; to be called while the device is busy with the one before."""
        begin = time.perf_counter()
        batch = next(self._batches, None)
        self.waited += time.perf_counter() - begin
        if batch is None:
            self._next = None
            return
        with torch.no_grad(), torch.cuda.stream(self._beside):  # no stream: does nothing
            inputs = self._inputs(batch)
        stop = self._stream.position
        self._next = Taken(batch, inputs, stop - self._stream.batch_size, stop)

    def take(self) -> Taken | None:
        """The batch that was fetched, None at the end; the device waits for its copy, this process does not."""
        taken, self._next = self._next, None
        if taken is not None and self._beside is not None:
            current = torch.cuda.current_stream()
            current.wait_stream(self._beside)
            for tensor in taken.inputs:
                tensor.record_stream(current)  # or its memory would be given to the next copy too early
        return taken
