"""Count the bytes that operations allocate on a device, to test how much memory moving a network needs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class DeviceBytes(TorchDispatchMode):
    """Context in which the bytes of all new tensors on a device of `kind`, such as "meta", are added up."""

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


def weight_bytes(net: torch.nn.Module) -> int:
    """Return the size of the weights and buffers of `net`, in bytes."""
    return sum(tensor.nbytes for tensor in [*net.parameters(), *net.buffers()])
