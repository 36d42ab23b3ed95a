"""Evaluation while a job trains: it scores the moving average, keeps the best checkpoints, and ends no training."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from model.subject_diffusion import SubjectDiffusion
from tests.training_run import trained
from tests.unit.training.distributed.test_parallel import train_evaluated_on_two_workers
from tests.unit.training.test_loop import differing, tensors_at
from training.checkpoints.retention import BEST
from training.checkpoints.store import Checkpoints, read_record
from training.config import EvaluationConfig, TrainingJob
from training.distributed.parallel import Replica, Worker
from training.errors import TrainingError
from training.export import export
from training.monitoring.evaluation import Evaluations, load_evaluations
from training.monitoring.metrics import read_metrics
from training.optimization.state import TrainingState

Jobs = Callable[..., TrainingJob]
EVALUATION = {"benchmark": "weights", "every": 2, "cases": 3, "metric": "size"}


class WeightSizes:
    """A benchmark without images: case n scores the mean size of the trained weights, plus n."""

    score_names = ("size", "case")
    case_count = 5

    def __call__(self, net: SubjectDiffusion, numbers: Sequence[int]) -> list[dict[str, float]]:
        torch.rand(3)  # an evaluator may draw random numbers
        return [{"size": size_of(net) + case, "case": float(case)} for case in numbers]


class Scripted(WeightSizes):
    """A benchmark whose scores are given, one for each evaluation."""

    def __init__(self, scores: Sequence[float | Exception]) -> None:
        self._scores = iter(scores)

    def __call__(self, net: SubjectDiffusion, numbers: Sequence[int]) -> list[dict[str, float]]:
        score = next(self._scores)
        if isinstance(score, Exception):
            raise score
        return [{"size": score, "case": 0.0} for _ in numbers]


def size_of(net: SubjectDiffusion) -> float:
    weights = [weight.detach() for weight in net.parameters() if weight.requires_grad]
    return float(sum(weight.abs().sum() for weight in weights) / sum(weight.numel() for weight in weights))


def evaluated(job: TrainingJob, evaluator: WeightSizes, resume: bool = False) -> None:
    trained(job, resume, evaluations=Evaluations(evaluator, job.training))


def checkpoint_steps(job: TrainingJob) -> list[int]:
    return [int(path.name[5:]) for path in Checkpoints(Path(job.training.out), 1, Worker()).all()]


def best_step(job: TrainingJob) -> int:
    link = Path(job.training.out) / "checkpoints" / BEST
    return read_record(link).position.step


def test_the_mean_of_the_weights_is_scored_over_the_first_cases(job: Jobs):
    one = job(evaluation=EVALUATION)
    state = TrainingState(Replica(SubjectDiffusion.from_base(one.model), one.training.strategy, Worker()), one.training)
    evaluations, before = Evaluations(WeightSizes(), one.training), torch.get_rng_state()
    size = size_of(state.replica.net)
    assert evaluations(state, 2) == {"size": pytest.approx(size + 1), "case": 1.0}
    with torch.no_grad():
        for mean in state.ema.tensors.values():
            mean.mul_(2)
    assert evaluations(state, 2)["size"] == pytest.approx(2 * size + 1)
    assert size_of(state.replica.net) == size
    assert torch.equal(torch.get_rng_state(), before), "random numbers go on as if there had been no evaluation"


def test_scores_are_in_the_metrics_and_in_tensorboard(job: Jobs):
    one = job(steps=3, log_every=1, evaluation=EVALUATION)
    evaluated(one, Scripted([0.25, 0.5]))
    out = Path(one.training.out)
    assert [line["evaluation"].get("size") for line in read_metrics(out)] == [None, 0.25, 0.5]
    board = b"".join(path.read_bytes() for path in (out / "tensorboard").iterdir())
    assert board.count(b"evaluation/size") == 2


def test_an_evaluation_does_not_change_the_weights(job: Jobs, tmp_path):
    settings = {"steps": 3, "checkpoint_every": 3}
    with_evaluation, without = job(**settings, evaluation=EVALUATION), job(**settings, out=str(tmp_path / "without"))
    evaluated(with_evaluation, WeightSizes())
    trained(without)
    assert differing(tensors_at(with_evaluation, 3), tensors_at(without, 3)) == []


def test_each_evaluation_has_a_line_of_metrics_and_a_checkpoint(job: Jobs):
    one = job(steps=5, log_every=4, checkpoint_every=4, keep=9, evaluation=EVALUATION | {"every": 3})
    evaluated(one, WeightSizes())
    assert [line["step"] for line in read_metrics(Path(one.training.out))] == [3, 4, 5]
    assert checkpoint_steps(one) == [3, 4, 5]


def test_the_best_checkpoints_are_kept_beside_the_latest(job: Jobs):
    one = job(steps=6, keep=1, checkpoint_every=1, evaluation=EVALUATION | {"every": 1, "keep": 2})
    evaluated(one, Scripted([0.1, 0.7, 0.3, 0.8, 0.2, 0.1]))
    assert checkpoint_steps(one) == [2, 4, 6]
    assert best_step(one) == 4


def test_a_resumed_job_keeps_the_best_of_before(job: Jobs):
    settings = {"keep": 1, "checkpoint_every": 1, "evaluation": EVALUATION | {"every": 1}}
    evaluated(job(steps=3, **settings), Scripted([0.1, 0.9, 0.3]))
    evaluated(job(steps=5, **settings), Scripted([0.5, 0.4]), resume=True)
    assert checkpoint_steps(job()) == [2, 5]
    assert best_step(job()) == 2


def test_scores_of_another_benchmark_are_not_compared(job: Jobs):
    settings = {"keep": 1, "checkpoint_every": 1}
    evaluated(job(steps=2, **settings, evaluation=EVALUATION | {"every": 1}), Scripted([0.9, 0.8]))
    easier = EVALUATION | {"every": 1, "cases": 2}
    evaluated(job(steps=4, **settings, evaluation=easier), Scripted([0.5, 0.4]), resume=True)
    assert checkpoint_steps(job()) == [3, 4]
    assert best_step(job()) == 3


def test_the_best_checkpoint_can_be_exported(job: Jobs, tmp_path):
    one = job(steps=2, checkpoint_every=1, evaluation=EVALUATION | {"every": 1})
    evaluated(one, Scripted([0.9, 0.1]))
    export(Path(one.training.out) / "checkpoints" / BEST, tmp_path / "model")
    exported = SubjectDiffusion.from_pretrained(tmp_path / "model")
    first = {name.removeprefix("ema/"): mean for name, mean in tensors_at(one, 1).items() if name.startswith("ema/")}
    assert first
    weights = dict(exported.named_parameters())
    assert all(torch.equal(weights[name], mean) for name, mean in first.items())


@pytest.mark.parametrize("failure", [RuntimeError("no memory"), KeyError("size"), OSError("no such file")])
def test_an_evaluation_that_fails_is_counted_and_the_training_goes_on(job: Jobs, caplog, failure):
    one = job(steps=4, log_every=1, checkpoint_every=9, evaluation=EVALUATION)
    with caplog.at_level(logging.WARNING):
        evaluated(one, Scripted([failure, 0.5]))
    lines = read_metrics(Path(one.training.out))
    assert [(line["failed_evaluations"], bool(line["evaluation"])) for line in lines] == [
        (0, False),
        (1, False),
        (0, False),
        (0, True),
    ]
    assert f"no evaluation at step 2, training continues: {type(failure).__name__}" in caplog.text
    assert best_step(one) == 4


def test_scores_that_are_no_numbers_are_a_failure(job: Jobs):
    one = job(steps=2, evaluation=EVALUATION)
    evaluated(one, Scripted([float("nan")]))
    (line,) = read_metrics(Path(one.training.out))
    assert line["failed_evaluations"] == 1
    assert line["evaluation"] == {}


def test_an_unknown_metric_is_refused_before_the_training(job: Jobs):
    with pytest.raises(TrainingError, match=r"metric='beauty' is no score of the benchmark 'weights'.*size, case"):
        Evaluations(WeightSizes(), job(evaluation=EVALUATION | {"metric": "beauty"}).training)


def test_a_benchmark_that_does_not_load_is_refused_before_the_training(job: Jobs):
    def missing(job: TrainingJob, device: torch.device) -> WeightSizes:
        raise OSError("weights/embedder is missing")

    with pytest.raises(
        TrainingError, match=r"^training\.evaluation\.benchmark='weights' cannot be loaded: weights/embedder is missing"
    ):
        load_evaluations(job(evaluation=EVALUATION), missing, Worker())


def test_a_command_without_benchmarks_refuses_the_setting(job: Jobs):
    with pytest.raises(TrainingError, match="start the job with subject-diffusion train"):
        load_evaluations(job(evaluation=EVALUATION), None, Worker())
    assert load_evaluations(job(), None, Worker()) is None


def test_a_wrong_metric_is_refused_when_the_benchmark_is_loaded(job: Jobs):
    with pytest.raises(TrainingError, match=r"^training\.evaluation\.metric='beauty' is no score"):
        load_evaluations(job(evaluation=EVALUATION | {"metric": "beauty"}), lambda job, device: WeightSizes(), Worker())


def test_a_job_evaluates_nothing_by_default():
    assert EvaluationConfig().benchmark is None


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_workers_share_the_cases(job: Jobs, tmp_path, processes, strategy):
    settings = {"steps": 2, "log_every": 1, "evaluation": EVALUATION | {"cases": 5}}
    alone = job(accumulation=2, **settings)
    evaluated(alone, WeightSizes())
    together = job(strategy=strategy, out=str(tmp_path / "together"), **settings)
    train_evaluated_on_two_workers(processes, together, WeightSizes(), tmp_path / "meeting")
    one, two = (read_metrics(Path(run.training.out))[-1]["evaluation"] for run in (alone, together))
    assert two["case"] == one["case"] == 2.0
    assert two["size"] == pytest.approx(one["size"], rel=1e-3)


class FailsOnTheSecond(WeightSizes):
    """A benchmark whose case 1, which the second of two workers has, cannot be scored."""

    def __call__(self, net: SubjectDiffusion, numbers: Sequence[int]) -> list[dict[str, float]]:
        if 1 in numbers:
            raise RuntimeError("case 1 is broken")
        return super().__call__(net, numbers)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_failure_of_one_worker_stops_none_of_them(job: Jobs, tmp_path, processes, strategy):
    together = job(strategy=strategy, steps=4, log_every=1, evaluation=EVALUATION)
    train_evaluated_on_two_workers(processes, together, FailsOnTheSecond(), tmp_path / "meeting")
    lines = read_metrics(Path(together.training.out))
    assert [line["failed_evaluations"] for line in lines] == [0, 1, 0, 1]
