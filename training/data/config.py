"""Settings of the training data."""

from enum import StrEnum

from pydantic import Field, model_validator

from infra.config import Config
from infra.ranges import Count, Pixels, Share, ShareBelowOne


class CutoutResampling(StrEnum):
    """How a subject's pixels reach its picture for the image encoder."""

    TWO_STEPS = "two_steps"
    """Warped at the size of the decoded image, then resized by area, or bilinearly if smaller."""
    ONE_STEP = "one_step"
    """Warped bilinearly from the decoded image straight to the picture. Faster and slightly sharper."""


class AugmentationConfig(Config):
    """Augmentation of the subjects' pictures, so that the network cannot copy them into the image.

    Choice: the paper does not describe it; the defaults are the released code's.
    """

    flip: Share = 0.5
    """Share of subjects that are mirrored, 0 to 1."""
    rotation_deg: float = Field(default=10.0, ge=0, le=180)
    """Largest rotation in either direction, in degrees; 0 rotates none."""
    perspective: ShareBelowOne = 0.5
    """Largest inward shift of a corner, as a share of half the side; 0 shifts none."""
    perspective_chance: Share = 0.5
    """Share of subjects whose corners are shifted, 0 to 1."""
    resampling: CutoutResampling = CutoutResampling.TWO_STEPS
    """Resampling of the subjects' pictures. `one_step` saves time; pictures then differ slightly from those of
    sampling, which are resized by area."""


class CacheConfig(Config):
    """Cache that `subject-diffusion cache` writes beside the dataset's shards and training reads.

    A view holds one draw of crops and subjects' pictures of all rows: view v is the draw of epoch v. With V views,
    epoch e trains on view e modulo V. If features are not cached, the subjects' pictures are epoch e's own.
    """

    name: str = Field(default="default", pattern=r"^[\w.-]+$")
    """Folder under cache/ of the dataset. Jobs with other settings can use other names beside it."""
    views: Count = 1
    """Number of views. The VAE's moments take 64 KiB an image and view at 512 px."""
    features: bool = False
    """Whether to cache the image encoder's features as well: with ViT-H/14 0.65 MB a subject and view. Training then
    reads no images. Row groups become as much larger, so `row_groups_mb` must fit `window` times `streams` of them."""


class DataConfig(Config):
    """Settings of the training data: dataset, sizes, batches and loader processes."""

    dataset: str
    """Root of the dataset whose `sdd/` is read: a folder, or s3://BUCKET/FOLDER."""
    image_px: Pixels = 512
    """Side of a training image in pixels (App. A)."""
    latent_downsampling: int = Field(default=8, ge=1, le=64)
    """Pixels of the image per position of the latent and the masks, along a side: 8 for the VAE of Stable Diffusion."""
    subject_px: Pixels = 224
    """Side of a subject's picture in pixels, as the image encoder expects."""
    batch_size: Count = 12
    """Number of images in a worker's batch (App. A)."""
    max_subjects: int = Field(default=4, ge=1, le=64)
    """Largest number of subjects of an image; of more, each epoch draws this many. At most `model.max_subjects`."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Augmentation of the subjects' pictures."""
    cache: CacheConfig | None = None
    """Cache written by `subject-diffusion cache` to train on; None runs the frozen networks in each step."""

    streams: Count = 8
    """Number of positions in the dataset that are read in parallel: batch n belongs to stream n modulo `streams`. If it
    is a multiple of the number of all workers' loader processes, only one process reads each row group. Affects the
    order of rows."""
    window: Count = 4
    """Number of row groups of a stream whose rows are shuffled together. Affects the order of rows."""
    processes: int = Field(default=2, ge=0, le=1000)
    """Number of loader processes of each worker; 0 loads each batch in the worker itself, when it is needed."""
    prefetch: int = Field(default=2, ge=1, le=1000)
    """Number of batches that each loader process keeps ready."""
    row_groups_mb: int = Field(default=512, ge=1, le=2**20)
    """Memory of each loader process for row groups that it still needs, in MB. One row group is always kept."""

    @model_validator(mode="after")
    def _refuse_partial_cells(self) -> "DataConfig":
        if self.image_px % self.latent_downsampling:
            raise ValueError(
                f"training.data: image_px={self.image_px} is not a multiple of "
                f"latent_downsampling={self.latent_downsampling}"
            )
        return self
