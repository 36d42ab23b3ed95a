"""Settings of a training job. Each default has its place in the paper, or says that it is a choice."""

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
    ShareBelowOne,
    Steps,
    StepsOrZero,
)
from model.config import ModelConfig, Recompute
from model.sampling.config import SamplingConfig
from training.data.config import DataConfig


class Strategy(StrEnum):
    """How several workers hold the model."""

    DDP = "ddp"
    """Each holds all of it; gradients are averaged."""
    FSDP2 = "fsdp2"
    """What is trained, its gradients, its moments and its mean are split among them; what is frozen each holds."""


class OptimizerConfig(Config):
    """AdamW. Choice: App. A gives the learning rate alone; the rest is the released code's, but for the clipping."""

    learning_rate: Rate = 3e-5
    """App. A."""
    warmup_steps: StepsOrZero = 1000
    """Steps over which the learning rate rises from zero; then it is constant."""
    decay_steps: StepsOrZero = 0
    """Last steps of the job, over which the learning rate falls in a line to zero; 0: it is constant to the end, as in
    the released code."""
    beta_1: ShareBelowOne = 0.9
    beta_2: ShareBelowOne = 0.999
    epsilon: Rate = 1e-8
    weight_decay: RateOrZero = 0.0
    clip_norm: Factor = 1.0
    """Longest gradient, of all weights together; 0 clips none. Choice: the released code has none."""


class SamplesConfig(Config):
    """Pictures of what the running mean of the weights makes of subjects of the dataset: OUT/samples/step-….png.

    Subjects, boxes and noise are the same each time: the first rows of the first epoch, with one subject and with more
    in turn, their pictures not augmented. The first worker makes them while the others wait; where FSDP2 splits the
    network, all make them together.
    """

    every: StepsOrZero = 5000
    """Steps between them, and after the last; 0 makes none. Choice: twelve images cost about as much as 40 steps of
    the paper's run, so less than 1 % of it."""
    rows: Count = 4
    """Rows of the dataset, each a line of the picture."""
    prompts: tuple[str, ...] = ("in the snow", "on the beach")
    """Beside the row's own caption, each after its subjects: "the dog and the cat in the snow"."""
    sampling: SamplingConfig = SamplingConfig()
    """As the paper samples. A base whose last step is noise alone, such as the miniature ones, needs
    `sampling.scheduler="DDIM"`."""

    @model_validator(mode="after")
    def _subjects_throughout(self) -> "SamplesConfig":
        if self.sampling.interpolation is not None:
            raise ValueError("training.samples.sampling.interpolation has no place here: leave it out")
        return self


class TrainingConfig(Config):
    data: DataConfig
    out: str
    """Folder of checkpoints and metrics, in a file system that all workers see."""
    seed: Seed = 0
    """Of new adapters, of the order of rows and their augmentation, and of noise, timesteps and dropped conditions."""

    steps: Steps = 300_000
    """Steps of the optimiser (App. A)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    accumulation: Count = 1
    """Batches of each worker in a step."""
    images_per_step: Count | None = None
    """Images of a step, over all workers, that the learning rate was chosen for. A job whose workers, batch size and
    accumulation give another number warns and names the accumulation that fits. None checks nothing."""
    ema_decay: ShareBelowOne = 0.9999
    """Of the running mean of the weights, which is what is exported; 0 exports the weights themselves. Choice: App. A
    is silent; the released code has none."""
    precision: Precision = Precision.BFLOAT16
    """Of products, by autocast; what is trained is kept in float32. Choice: App. A is silent."""

    workers: Processes = 1
    """Processes that train, each with `data.batch_size` images ("24 A100 GPUs", App. A)."""
    gpu: bool = True
    """Each worker has a GPU of its own; else it computes on the CPU, and workers speak over gloo."""
    cpus_per_worker: Processes = 1
    """That Ray keeps for a worker; its loader's processes want some as well."""
    strategy: Strategy = Strategy.DDP
    compile: bool = True
    """Compile the UNet by torch.compile: one graph for each number of subjects and no break, with DDP and FSDP2 alike.
    On a GPU only."""
    recompute: Recompute = Recompute.ACTIVATIONS
    """What the backward pass computes again instead of finding it kept."""

    log_every: Steps = 50
    """Steps between lines of metrics, between which the host does not wait for the device."""
    identity_probe: bool = True
    """With each line of metrics, how much worse the noise is predicted with other images' subjects: two forward
    passes."""
    checkpoint_every: Steps = 1000
    """Steps between checkpoints."""
    samples: SamplesConfig = SamplesConfig()
    """Pictures to be looked at while it trains."""
    keep: Count = 3
    """Last checkpoints that stay; the one of the lowest loss stays as well."""
    non_finite_limit: Count = 20
    """Steps in a row with gradients that are no numbers, after which the job stops. Each is left out and counted."""
    max_failures: CountOrZero = 10
    """How often Ray replaces workers that died, and the job goes on from its last checkpoint."""


class TrainingJob(Config):
    """What `python -m training.launch` reads of a settings file."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "TrainingJob":
        data, model = self.training.data, self.model
        if self.training.precision is Precision.FLOAT32 and model.frozen_precision is not Precision.FLOAT32:
            raise ValueError('training.precision="float32" needs model.frozen_precision="float32"')
        if data.max_subjects > model.max_subjects:
            raise ValueError(
                f"training.data.max_subjects={data.max_subjects} is more than model.max_subjects={model.max_subjects}"
            )
        return self
