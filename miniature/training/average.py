"""The running average of a network's weights, which samples better than the last step's."""

import copy

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """A frozen copy of `net` that follows it; checkpoints hold it as one of a task's heads.

    Args:
        decay: of the weight of what was; less in the beginning, where there is little to keep.
    """

    steps: Tensor

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__()
        self.average = copy.deepcopy(net)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._decay = decay

    @torch.no_grad()
    def follow(self, net: nn.Module) -> None:
        """Take a step towards `net`."""
        self.steps += 1
        share = 1 - min(self._decay, float(self.steps / (self.steps + 9)))
        torch._foreach_lerp_(list(self.average.parameters()), list(net.parameters()), share)

    def give(self, net: nn.Module) -> None:
        """Put the average in the place of `net`'s weights."""
        net.load_state_dict(self.average.state_dict())
