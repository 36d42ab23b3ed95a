"""All that a job changes while it trains, as named tensors: what a checkpoint holds."""

from dataclasses import dataclass

from torch import Tensor

from training.config import TrainingConfig
from training.ema import Ema
from training.optim import Optimizer
from training.parallel import Replica


@dataclass(frozen=True)
class Position:
    """How far a job is. With the plan it names the next row; what is random is a function of a batch's number."""

    step: int = 0
    """Steps done."""
    batches: int = 0
    """Batches of the plan that all workers together have consumed."""


class TrainingState:
    """Weights, their running mean and the optimiser's moments."""

    def __init__(self, replica: Replica, config: TrainingConfig) -> None:
        self.replica = replica
        self.optimizer = Optimizer(replica.weights, config.optimizer, config.steps)
        self.ema = Ema(replica.weights, config.ema_decay)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """By kind and name; writing into them changes the state."""
        return {
            "weights": {name: weight.detach() for name, weight in self.replica.weights.items()},
            "ema": self.ema.tensors,
            "optimizer": self.optimizer.tensors(self.replica.weights),
        }
