"""The benchmarks by which a training job can evaluate itself, by the name in `training.evaluation.benchmark`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from infra.config import SettingsError

if TYPE_CHECKING:
    from training.config import TrainingJob
    from training.monitoring.evaluation import MakeEvaluator

MINIATURE = "miniature"
_WEIGHTS = Path("miniature/weights")


def evaluator_maker(job: "TrainingJob") -> "MakeEvaluator | None":
    """Return the function that loads the job's benchmark in its workers; None where the settings name none.

    Raises:
        SettingsError: there is no benchmark of the name.
    """
    benchmark = job.training.evaluation.benchmark
    if benchmark is None:
        return None
    if benchmark != MINIATURE:
        raise SettingsError(
            f"training.evaluation.benchmark={benchmark!r}: there is no such benchmark. Set it to {MINIATURE!r}, or "
            "leave it out"
        )
    from miniature.scoring.training_evaluator import load_evaluator

    return partial(load_evaluator, _WEIGHTS.absolute())
