"""Batches on their way to the GPU while it computes."""

from collections.abc import Iterable, Iterator

import torch

from hive.data.text import Batch


class Prefetcher:
    """Copies pinned batches to the device on a stream of its own, each while the one before it is computed on.

    At most two lie on the device for this. The host launches work far ahead of the GPU, so that the first batch of a
    step is copied during the step before. On a CPU batches pass unchanged.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches on the device, in order, safe to use on the current stream."""
        if self.stream is None:
            yield from batches
            return
        ahead = None
        for batch in batches:
            before, ahead = ahead, self._send(batch, self.stream)
            if before is not None:
                yield self._receive(*before)
        if ahead is not None:
            yield self._receive(*ahead)

    def _send(self, batch: Batch, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return batch.to(self.device), stream.record_event()

    def _receive(self, batch: Batch, copied: torch.cuda.Event) -> Batch:
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)  # not for the whole stream, where the next batch is under way already
        for tensor in batch.tensors().values():
            tensor.record_stream(current)  # else its memory could be given to a later copy while it is still read
        return batch
