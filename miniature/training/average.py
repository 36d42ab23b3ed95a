"""A running average of a network's weights, which generates better images than the last step's weights."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

NetT = TypeVar("NetT", bound=nn.Module)


class Average(nn.Module, Generic[NetT]):
    """Running average of the weights of `net`. A task keeps it in its `heads`, so checkpoints include it.

    Args:
        decay: factor of the old average in each step, 0 to 1; early steps use a smaller one.
    """

    steps: Tensor
    average: NetT

    def __init__(self, net: NetT, decay: float) -> None:
        super().__init__()
        self.average = copy.deepcopy(net)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._decay = decay

    @torch.no_grad()
    def update(self, net: NetT) -> None:
        """Add the weights of `net` to the average."""
        self.steps += 1
        share = 1 - min(self._decay, float(self.steps / (self.steps + 9)))
        torch._foreach_lerp_(list(self.average.parameters()), list(net.parameters()), share)

    def copy_to(self, net: NetT) -> None:
        """Replace the weights of `net` by the average."""
        net.load_state_dict(self.average.state_dict())
