"""Settings of the training data."""

from pydantic import Field, model_validator

from infra.config import Config
from infra.ranges import Count, Pixels, Share, ShareBelowOne


class AugmentationConfig(Config):
    """How the picture of a subject differs from the subject in the image, so that the network cannot just paste it.

    Choice: the paper is silent; these are the released code's.
    """

    flip: Share = 0.5
    """How often the subject is mirrored."""
    rotation_deg: float = Field(default=10.0, ge=0, le=180)
    """It is turned by up to as much either way."""
    perspective: ShareBelowOne = 0.5
    """How far its corners move inwards, as a share of half its sides, at most."""
    perspective_chance: Share = 0.5
    """How often they do."""


class CacheConfig(Config):
    """What `subject-diffusion cache` writes beside the dataset's shards, and training then reads.

    A view is one draw of crops and subjects' pictures of all rows: view v is what epoch v draws. With V views, epoch e
    trains on view e modulo V; pictures of subjects that are not kept encoded are epoch e's own.
    """

    name: str = Field(default="default", pattern=r"^[\w.-]+$")
    """Folder under cache/ of the dataset, so that jobs of other settings keep theirs beside it."""
    views: Count = 1
    """Draws that are kept; of the VAE's moments each takes 64 KiB an image at 512 px."""
    features: bool = False
    """Keep the image encoder's features as well: with ViT-H/14 0.65 MB a subject and view. Training then reads no
    images. Row groups are as much larger: give `row_groups_mb` room for `window` times `streams` of them."""


class DataConfig(Config):
    dataset: str
    """Root of the dataset whose `sdd/` is read: a folder, or s3://BUCKET/FOLDER."""
    image_px: Pixels = 512
    """Sides of a training image (App. A)."""
    latent_downsampling: int = Field(default=8, ge=1, le=64)
    """How much smaller than the image its latent is, and with it the masks: 8 for the VAE of Stable Diffusion."""
    subject_px: Pixels = 224
    """Sides of a subject's picture: the image encoder's."""
    batch_size: Count = 12
    """Images of a worker's batch (App. A)."""
    max_subjects: int = Field(default=4, ge=1, le=64)
    """Subjects of an image that has more are drawn anew each epoch. At most `model.max_subjects`."""
    augmentation: AugmentationConfig = AugmentationConfig()
    cache: CacheConfig | None = None
    """Train on what `subject-diffusion cache` has encoded ahead; None encodes in each step."""

    streams: Count = 8
    """Places of the dataset that are read side by side: batch n is of stream n modulo `streams`. A row group is read
    by one process alone where the number of all workers' loader processes divides it. Decides the order of rows."""
    window: Count = 4
    """Row groups of a stream whose rows are shuffled among each other. Decides the order of rows."""
    processes: int = Field(default=2, ge=0, le=1000)
    """That load data, for each worker; 0 loads in the worker itself, when a batch is asked for."""
    prefetch: int = Field(default=2, ge=1, le=1000)
    """Batches that each process keeps ready."""
    row_groups_mb: int = Field(default=512, ge=1, le=2**20)
    """Memory of each process for row groups that are not used up."""

    @model_validator(mode="after")
    def _latent_fits(self) -> "DataConfig":
        if self.image_px % self.latent_downsampling:
            raise ValueError(
                f"training.data: image_px={self.image_px} is no multiple of "
                f"latent_downsampling={self.latent_downsampling}"
            )
        return self
