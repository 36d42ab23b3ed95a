"""Settings of a whole experiment, read from one TOML file."""

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


class DemoExperiment(Config):
    """Tables that the demo reads from a settings file: all of them."""

    labeling: LabelingConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig
    world: WorldConfig = WorldConfig()
    """Scenes of the demo. Empty `world.scenes.names` stand for the subjects that the labelling networks know."""
