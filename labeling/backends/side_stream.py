"""Work of a GPU beside its network."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class SideStream:
    """Stream of a GPU that waits for one batch of the network, but not for batches that are queued after it.

    A thread completes the results of the batch in it while another runs the network. In the network's own stream each
    of these results would come after the next batch.
    """

    def __init__(self, device: torch.device) -> None:
        """Mark the end of the batch, whose last work has been queued. Other devices than CUDA's have no stream."""
        is_cuda = device.type == "cuda"
        self._stream = _high_priority_stream(device) if is_cuda else None
        self._computed = torch.cuda.current_stream(device).record_event() if is_cuda else None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Queue the work of the block in the stream. The block must end with its results on the CPU."""
        if self._stream is None or self._computed is None:
            yield
            return
        self._stream.wait_event(self._computed)
        with torch.cuda.stream(self._stream):
            yield


def _high_priority_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]  # torch annotates no constructor
