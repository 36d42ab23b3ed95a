"""Evaluation of the moving average of the weights on a benchmark, while a job trains.

The caller of the job passes the benchmark in: this module knows only cases and their scores. The workers share the
cases. An evaluation does not change the job's state: with and without it a job gives the same weights, bit for bit.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

import torch
from torch.compiler import set_stance

from infra.precision import Precision
from model.subject_diffusion import SubjectDiffusion
from training.checkpoints.store import error_line
from training.config import TrainingConfig, TrainingJob
from training.distributed.parallel import Worker, gather_from_workers
from training.errors import TrainingError
from training.optimization.state import TrainingState

log = logging.getLogger(__name__)
Scores = Mapping[str, float]
"""Scores by name; the higher, the better."""


class Evaluator(Protocol):
    """Cases of a benchmark, and the networks that score their images."""

    @property
    def score_names(self) -> Sequence[str]:
        """Names of the scores of each case."""

    @property
    def case_count(self) -> int:
        """Number of cases."""

    def __call__(self, net: SubjectDiffusion, numbers: Sequence[int]) -> Sequence[Scores]:
        """Generate images of the cases with these numbers, counted from 0, and return the scores of each case."""


MakeEvaluator = Callable[[TrainingJob, torch.device], Evaluator]
"""Loads the evaluator that `training.evaluation` names, on a device."""


class Evaluations:
    """Evaluates a job at the steps that its settings name. All workers call it together.

    Args:
        evaluator: benchmark of this worker; the same on all workers.

    Raises:
        TrainingError: the benchmark has no score of the name `training.evaluation.metric`.
    """

    def __init__(self, evaluator: Evaluator, config: TrainingConfig) -> None:
        self._evaluator, self._config = evaluator, config
        self._failures = 0
        metric, names = config.evaluation.metric, evaluator.score_names
        if metric not in names:
            raise TrainingError(
                f"training.evaluation.metric={metric!r} is no score of the benchmark "
                f"{config.evaluation.benchmark!r}: set it to one of {', '.join(names)}"
            )

    def is_due(self, step: int) -> bool:
        """Return whether an evaluation is due after `step` steps."""
        return step % self._config.evaluation.every == 0 or step == self._config.steps

    def __call__(self, state: TrainingState, step: int) -> Scores:
        """Return the mean scores of all cases, on all workers; none if the evaluation fails on any of them.

        A failure is logged and counted, not raised: an evaluation must not end a training of a week.
        """
        worker = state.replica.worker
        results = gather_from_workers(worker, self._evaluate(state, range(worker.rank, self._case_count, worker.count)))
        failures = [result for result in results if isinstance(result, str)]
        if not failures:
            means = self._means([case for result in results if not isinstance(result, str) for case in result])
            if all(math.isfinite(mean) for mean in means.values()):
                return means
            failures = [f"not all scores are finite: {means}"]
        self._failures += 1
        if worker.is_leader:
            log.warning("no evaluation at step %d, training continues: %s", step, "; ".join(failures))
        return {}

    def take_failures(self) -> int:
        """Return the number of failed evaluations since the last call."""
        failures, self._failures = self._failures, 0
        return failures

    def _means(self, cases: Sequence[Scores]) -> Scores:
        return {name: math.fsum(case[name] for case in cases) / len(cases) for name in self._evaluator.score_names}

    @property
    def _case_count(self) -> int:
        return min(self._config.evaluation.cases, self._evaluator.case_count)

    def _evaluate(self, state: TrainingState, cases: Sequence[int]) -> list[dict[str, float]] | str:
        """Return the scores of this worker's cases, or the reason why there are none."""
        device = state.replica.worker.device
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
                stack.enter_context(torch.no_grad())
                stack.enter_context(state.ema.use_as_weights())
                stack.enter_context(set_stance("force_eager"))  # rare batches are not worth graphs of their own
                fast = self._config.precision is Precision.BFLOAT16
                stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=fast))
                stack.enter_context(state.replica.unshard())
                found = self._evaluator(state.replica.net, cases) if cases else []
                return [{name: float(case[name]) for name in self._evaluator.score_names} for case in found]
        except Exception as error:  # the evaluator is the caller's, and no error of it may end the training
            log.debug("evaluation failed", exc_info=True)
            return error_line(error)


def load_evaluations(job: TrainingJob, make: MakeEvaluator | None, worker: Worker) -> Evaluations | None:
    """Load the benchmark that the settings name; None where they name none. All workers call this together.

    Raises:
        TrainingError: the benchmark cannot be loaded on one of the workers, or this command has none.
    """
    benchmark = job.training.evaluation.benchmark
    if benchmark is None:
        return None
    if make is None:
        raise TrainingError(
            f"training.evaluation.benchmark={benchmark!r}, but this command has no benchmarks: start the job with "
            "subject-diffusion train, or remove the setting"
        )
    evaluations, reason = None, None
    try:
        evaluations = Evaluations(make(job, worker.device), job.training)
    except OSError as error:
        reason = f"training.evaluation.benchmark={benchmark!r} cannot be loaded: {error}"
    except TrainingError as error:
        reason = str(error)
    reasons = [text for text in gather_from_workers(worker, reason) if text]
    if evaluations is None or reasons:
        raise TrainingError(reasons[0])
    return evaluations
