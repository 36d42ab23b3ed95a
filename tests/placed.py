"""Counts the bytes that are placed on a device, to see what a move costs it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Placed(TorchDispatchMode):
    """Adds up the bytes of all tensors that operations within make on a device of `kind`, such as "meta"."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind, self.bytes = kind, 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type == self._kind and not func.is_view:
            self.bytes += result.nbytes
        return result


def held_bytes(net: torch.nn.Module) -> int:
    """Bytes of the weights and buffers of `net`."""
    return sum(tensor.nbytes for tensor in [*net.parameters(), *net.buffers()])
