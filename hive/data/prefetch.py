"""Copies batches to the GPU while it computes."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import torch

from hive.data.text import Batch

Item = TypeVar("Item")
Sent = TypeVar("Sent")


def one_ahead(items: Iterable[Item], send: Callable[[Item], Sent], receive: Callable[[Sent], Item]) -> Iterator[Item]:
    """Yields `receive(send(item))` for each item in order; each but the last is received after the next one is sent."""
    sent: list[Sent] = []  # at most two
    for item in items:
        sent.append(send(item))
        if len(sent) == 2:
            yield receive(sent.pop(0))
    for last in sent:
        yield receive(last)


class Prefetcher:
    """Copies pinned batches to the device on a separate stream, each while the batch before it is computed on.

    At most two batches are on the device for this. The host launches work far ahead of the GPU, so that the first batch
    of a step is copied during the step before. On a CPU batches pass unchanged; on other devices each is copied when it
    is asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields the same batches on the device, in order, safe to use on the current stream."""
        if self.device.type == "cpu":
            yield from batches
        elif self.stream is None:
            yield from (batch.to(self.device) for batch in batches)
        else:
            yield from one_ahead(batches, partial(self._send, self.stream), self._receive)

    def _send(self, stream: torch.cuda.Stream, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return batch.to(self.device), stream.record_event()

    def _receive(self, sent: tuple[Batch, torch.cuda.Event]) -> Batch:
        batch, copied = sent
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)  # not for the whole stream, on which the next batch may be copied already
        for tensor in batch.tensors().values():
            tensor.record_stream(current)  # else a later copy could reuse its memory while it is still read
        return batch
