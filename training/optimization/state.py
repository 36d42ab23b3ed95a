"""The training state: all tensors that a job changes and that a checkpoint holds."""

from dataclasses import dataclass

from torch import Tensor

from training.config import TrainingConfig
from training.distributed.parallel import Replica
from training.optimization.ema import Ema
from training.optimization.optim import Optimizer


@dataclass(frozen=True)
class Position:
    """Progress of a job. Together with the plan it determines the next batch and its random numbers."""

    step: int = 0
    """Number of steps done."""
    batches: int = 0
    """Number of batches of the plan that all workers together have consumed."""


class TrainingState:
    """Weights, their moving average and the optimiser's moments."""

    def __init__(self, replica: Replica, config: TrainingConfig) -> None:
        self.replica = replica
        self.optimizer = Optimizer(replica.weights, config.optimizer, config.steps)
        self.ema = Ema(replica.weights, config.ema_decay)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors by kind and name. Writing into them changes the state."""
        return {
            "weights": {name: weight.detach() for name, weight in self.replica.weights.items()},
            "ema": self.ema.tensors,
            "optimizer": self.optimizer.tensors(self.replica.weights),
        }
