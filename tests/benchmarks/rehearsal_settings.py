"""What a rehearsal is asked for, and where its files are."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Scale(StrEnum):
    FULL = "full"
    """The published networks' sizes."""
    SMALL = "small"
    """The tests' networks."""


@dataclass(frozen=True)
class Rehearsal:
    """Settings of one rehearsal."""

    scale: Scale
    out: Path
    image_px: int
    """Sides of training images and of pictures."""
    sampling_steps: int
    seed: int = 0

    @property
    def world(self) -> Path:
        """The photographs, with what is true of them."""
        return self.out / "world"

    @property
    def dataset(self) -> Path:
        """What the labelling networks make of the photographs."""
        return self.out / "labelled"

    @property
    def truth(self) -> Path:
        """The same photographs with their true labels: what is trained on."""
        return self.out / "dataset"

    @property
    def labellers(self) -> Path:
        """The labelling networks."""
        return self.out / "labellers"

    @property
    def networks(self) -> Path:
        """The base and the image encoder."""
        return self.out / "networks"

    @property
    def training(self) -> Path:
        """Checkpoints and metrics of the job."""
        return self.out / "training"

    @property
    def training_cached(self) -> Path:
        """The same of the job that trains from the cache."""
        return self.out / "training-cached"

    @property
    def model(self) -> Path:
        """What is exported."""
        return self.out / "model"

    @property
    def pictures(self) -> Path:
        """What the exported model makes."""
        return self.out / "pictures"


IMAGE_PX = {Scale.FULL: 256, Scale.SMALL: 32}
"""Default sides of training images and pictures: the paper's 512 px take four times as long."""
SAMPLING_STEPS = {Scale.FULL: 4, Scale.SMALL: 2}
"""Default steps of the sampler."""
