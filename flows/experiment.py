"""Settings of a whole experiment, read from one TOML file."""

from evaluation.config import EvaluationConfig
from infra.config import Config
from labeling.config import LabelingConfig
from miniature.world.serve import WorldConfig
from model.config import ModelConfig
from training.config import TrainingConfig


class Experiment(Config):
    """Tables that `subject-diffusion build` reads from a settings file."""

    labeling: LabelingConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig | None = None
    """Settings of training; `build` ignores them."""


class LabelingWeights(LabelingConfig):
    """Settings of a build, of which only the weights matter."""

    root: str = ""
    """Folder of the dataset, which is not used."""


class WeightsExperiment(Config):
    """Tables that `subject-diffusion weights` reads from a settings file."""

    labeling: LabelingWeights = LabelingWeights()
    model: ModelConfig = ModelConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


class EvaluationExperiment(Config):
    """Tables that `subject-diffusion evaluate` reads from a settings file."""

    evaluation: EvaluationConfig = EvaluationConfig()


class DemoExperiment(Config):
    """Tables that the demo reads from a settings file: all of them."""

    labeling: LabelingConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig
    world: WorldConfig = WorldConfig()
    """Scenes of the demo. Empty `world.scenes.names` stand for the subjects that the labelling networks know."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Settings of evaluation; the demo ignores them."""


class LabelingNetworks(LabelingConfig):
    """Settings of labelling for a command that runs networks and makes no dataset."""

    root: str = "out/sdd"
    """Ignored."""


class CutoutExperiment(Config):
    """Tables that `subject-diffusion cutout` reads from a settings file."""

    labeling: LabelingNetworks = LabelingNetworks()
    """Settings of the networks: `labeling.detect` and `labeling.segment`; the others are ignored."""
