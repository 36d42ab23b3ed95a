"""The whole typed settings tree: one object, one TOML file, one experiment."""

from infra.config import Config
from labeling.config import LabelingConfig


class Experiment(Config):
    """What `subject-diffusion` reads of a settings file."""

    labeling: LabelingConfig
