"""Counts the most bytes that live at once during a computation, on the meta device too."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """Context that follows the storages of new tensors, gradients included, until they are freed.

    Args:
        weights: parameters and buffers, which are not counted.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self._known = {weight.untyped_storage()._cdata for weight in weights}
        self._live: dict[int, weakref.ref[Any]] = {}
        self.bytes = self.peak = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known and key not in self._live:
            self._live[key] = weakref.ref(storage, lambda _: self._remove(key, size))
            self.bytes += size
            self.peak = max(self.peak, self.bytes)

    def _remove(self, key: int, size: int) -> None:
        del self._live[key]
        self.bytes -= size
