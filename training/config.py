"""Settings of a training job. Each default names its place in the paper or says that it is a choice."""

from enum import StrEnum

from pydantic import model_validator

from infra.config import Config
from infra.precision import Precision
from infra.ranges import (
    Count,
    CountOrZero,
    Factor,
    Processes,
    Rate,
    RateOrZero,
    Seed,
    Share,
    ShareBelowOne,
    Steps,
    StepsOrZero,
)
from model.config import ModelConfig, Recompute
from model.sampling.config import SamplingConfig
from training.data.config import DataConfig


class Strategy(StrEnum):
    """Distribution of the model over several workers."""

    DDP = "ddp"
    """Each worker holds the whole model; gradients are averaged."""
    FSDP2 = "fsdp2"
    """The trained weights, their gradients, moments and moving average are split among the workers; each worker holds
    all frozen weights."""


class OptimizerConfig(Config):
    """Settings of AdamW.

    Choice: App. A gives only the learning rate; the rest is as in the released code, except clipping.
    """

    learning_rate: Rate = 3e-5
    """Learning rate after the warm-up (App. A)."""
    warmup_steps: StepsOrZero = 1000
    """Number of steps over which the learning rate rises linearly from zero; 0 starts at the full rate."""
    decay_steps: StepsOrZero = 0
    """Number of last steps over which the learning rate falls linearly to zero; 0 keeps it constant to the end, as in
    the released code."""
    beta_1: ShareBelowOne = 0.9
    """Decay of the running mean of the gradient per step; 0 uses the last gradient alone."""
    beta_2: ShareBelowOne = 0.999
    """Decay of the running mean of the squared gradient per step; 0 uses the last gradient alone."""
    epsilon: Rate = 1e-8
    """Term added to the denominator of the update."""
    weight_decay: RateOrZero = 0.0
    """Decoupled weight decay per step, as a factor of the learning rate; 0 applies none."""
    clip_norm: Factor = 1.0
    """Largest norm of the gradients of all weights together; 0 does not clip. Choice: the released code does not."""


class SamplesConfig(Config):
    """Sample images of the moving average of the weights while a job trains: OUT/samples/step-….png.

    Subjects, boxes and noise are the same each time: the first rows of the first epoch, alternating between rows with
    one subject and rows with more, without augmentation. The first worker draws them while the others wait; with FSDP2
    all workers draw them together.
    """

    every: StepsOrZero = 5000
    """Number of steps between sample grids; one more follows the last step. 0 draws none. Choice: twelve images cost
    about as much as 40 steps of the paper's run, so less than 1 % of it."""
    rows: Count = 4
    """Number of rows of the dataset, each a line of the grid."""
    prompts: tuple[str, ...] = ("in the snow", "on the beach")
    """Endings of further prompts beside the row's own caption, each after the subjects: "the dog and the cat in the
    snow"."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling settings, by default the paper's. A base whose last timestep is pure noise, such as the miniature ones,
    needs `sampling.scheduler="DDIM"`."""

    @model_validator(mode="after")
    def _refuse_interpolation(self) -> "SamplesConfig":
        if self.sampling.interpolation is not None:
            raise ValueError("training.samples.sampling.interpolation is not supported here. Remove it")
        return self


class EvaluationConfig(Config):
    """Evaluation of the moving average of the weights on a benchmark while a job trains.

    The workers share the cases of the benchmark. A checkpoint follows each evaluation, and the best ones are kept. An
    evaluation that fails is logged and counted; the training continues.
    """

    benchmark: str | None = None
    """Name of the benchmark, such as "miniature"; unset evaluates nothing. Choice: a benchmark needs networks that
    score images."""
    every: Steps = 5000
    """Number of steps between evaluations; one more follows the last step."""
    cases: Count = 32
    """Number of cases of the benchmark that are used, the first ones of its list."""
    metric: str = "similarity"
    """Name of the score by which checkpoints are compared; the higher, the better."""
    keep: Count = 1
    """Number of best checkpoints to keep beside the `training.keep` latest ones."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling settings, by default the paper's, as in `training.samples`."""


class TrainingConfig(Config):
    """Settings of training: data, optimiser, workers, metrics and checkpoints."""

    data: DataConfig
    """Settings of the dataset and its loader."""
    out: str
    """Folder for checkpoints, metrics and samples, in a file system that all workers share."""
    seed: Seed = 0
    """Seed of new adapters, of the order of rows and their augmentation, and of noise, timesteps and dropped
    conditions."""

    start: str | None = None
    """Folder of a trained model, as `export` writes it, from whose weights training starts; None starts with the base
    and new adapters."""
    start_share: Share = 1.0
    """Share of the way from the base and new adapters (0) to the weights of `start` (1) at which training starts: the
    weights are interpolated."""
    steps: Steps = 300_000
    """Number of optimiser steps (App. A)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Settings of the optimiser and its learning rate schedule."""
    accumulation: Count = 1
    """Number of batches of each worker in a step, whose gradients are accumulated."""
    images_per_step: Count | None = None
    """Number of images of a step, over all workers, that the learning rate was chosen for. If workers, batch size and
    accumulation give another number, the job warns and names the accumulation that fits. None checks nothing."""
    ema_decay: ShareBelowOne = 0.9999
    """Decay per step of the moving average of the weights, which is exported; 0 exports the weights themselves. Choice:
    App. A does not mention one; the released code has none."""
    precision: Precision = Precision.BFLOAT16
    """Precision of matrix products, by autocast; trained weights are kept in float32. Choice: App. A does not say."""

    workers: Processes = 1
    """Number of processes that train, each with `data.batch_size` images a batch ("24 A100 GPUs", App. A)."""
    gpu: bool = True
    """Whether each worker uses a GPU of its own; otherwise workers compute on the CPU and communicate by gloo."""
    cpus_per_worker: Processes = 1
    """Number of CPUs that Ray reserves for a worker, including those of its loader processes."""
    strategy: Strategy = Strategy.DDP
    """Distribution of the model over the workers."""
    compile: bool = True
    """Whether to compile the UNet with torch.compile: one graph for each number of subjects, without breaks, with DDP
    and FSDP2. Has no effect on a CPU."""
    recompute: Recompute = Recompute.ACTIVATIONS
    """Activations that the backward pass recomputes to save memory."""

    log_every: Steps = 50
    """Number of steps between lines of metrics. Between two lines the host does not wait for the device."""
    identity_probe: bool = True
    """Whether each line of metrics reports how much the error of the predicted noise grows with other images' subjects.
    Costs two forward passes a line."""
    checkpoint_every: Steps = 1000
    """Number of steps between checkpoints."""
    samples: SamplesConfig = SamplesConfig()
    """Settings of the sample images that a job draws while it trains."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Settings of the evaluation that a job runs while it trains."""
    keep: Count = 3
    """Number of latest checkpoints to keep; those with the best evaluation are kept as well, or without evaluation the
    one with the lowest loss."""
    non_finite_limit: Count = 20
    """Number of steps in a row with non-finite gradients after which the job stops. Each such step is skipped and
    counted."""
    max_failures: CountOrZero = 10
    """Number of times that Ray replaces dead workers and resumes the job from its last checkpoint; 0 never retries."""


class TrainingJob(Config):
    """Settings that `python -m training.launch` reads from a file."""

    model: ModelConfig = ModelConfig()
    """Settings of the model and its base."""
    training: TrainingConfig
    """Settings of the training itself."""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> "TrainingJob":
        data, model = self.training.data, self.model
        if self.training.precision is Precision.FLOAT32 and model.frozen_precision is not Precision.FLOAT32:
            raise ValueError('training.precision="float32" needs model.frozen_precision="float32"')
        if data.max_subjects > model.max_subjects:
            raise ValueError(
                f"training.data.max_subjects={data.max_subjects} is more than model.max_subjects={model.max_subjects}"
            )
        return self
