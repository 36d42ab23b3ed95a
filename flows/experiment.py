"""The whole typed settings tree: one object, one TOML file, one experiment."""

from infra.config import Config
from labeling.config import LabelingConfig
from miniature.world.serve import WorldConfig
from model.config import ModelConfig
from training.config import TrainingConfig


class Experiment(Config):
    """What `subject-diffusion` reads of a settings file."""

    labeling: LabelingConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig | None = None
    """What `train` needs and the others do without."""


class DemoExperiment(Config):
    """What the demo reads of a settings file: every table there is."""

    labeling: LabelingConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig
    world: WorldConfig = WorldConfig()
    """Scenes of the demo. Where it names no subjects, they are those that the labelling networks were taught."""
