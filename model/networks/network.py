"""The base class of our networks: a torch module that tells its device and precision, as diffusers' pipelines ask."""

import torch
from torch import nn


class Network(nn.Module):
    """A module with at least one weight or buffer; all of them are in one place and, if floating, of one precision."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self._first.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self._first.dtype

    @property
    def _first(self) -> torch.Tensor:
        """The first floating weight, else the first floating buffer."""
        tensors = (tensor for tensors in (self.parameters(), self.buffers()) for tensor in tensors)
        return next(tensor for tensor in tensors if tensor.is_floating_point())
