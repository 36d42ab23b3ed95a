"""Settings of a rehearsal, and the folders of its files."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Scale(StrEnum):
    FULL = "full"
    """Networks in the published sizes."""
    SMALL = "small"
    """Networks of the tests."""


@dataclass(frozen=True)
class Rehearsal:
    """Settings of one rehearsal."""

    scale: Scale
    out: Path
    image_px: int
    """Side of training images and generated images, in pixels."""
    sampling_steps: int
    seed: int = 0

    @property
    def world(self) -> Path:
        """Photographs and their truth."""
        return self.out / "world"

    @property
    def dataset(self) -> Path:
        """Dataset that the labelling networks make from the photographs."""
        return self.out / "labelled"

    @property
    def truth(self) -> Path:
        """Dataset of the photographs with their true labels, on which the model trains."""
        return self.out / "dataset"

    @property
    def labellers(self) -> Path:
        """Labelling networks."""
        return self.out / "labellers"

    @property
    def networks(self) -> Path:
        """Base and image encoder."""
        return self.out / "networks"

    @property
    def training(self) -> Path:
        """Checkpoints and metrics of the job."""
        return self.out / "training"

    @property
    def training_cached(self) -> Path:
        """Checkpoints and metrics of the job that trains from the cache."""
        return self.out / "training-cached"

    @property
    def model(self) -> Path:
        """Exported model."""
        return self.out / "model"

    @property
    def pictures(self) -> Path:
        """Images that the exported model generates."""
        return self.out / "pictures"


IMAGE_PX = {Scale.FULL: 256, Scale.SMALL: 32}
"""Default of `image_px`; the paper's 512 px take four times as long."""
SAMPLING_STEPS = {Scale.FULL: 4, Scale.SMALL: 2}
"""Default of `sampling_steps`."""
