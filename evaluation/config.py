"""Settings of an evaluation: the table `evaluation` of a settings file."""

from itertools import chain

from pydantic import Field

from evaluation.images import ImageLayout
from infra.config import Config
from infra.ranges import Count, Factor, Share


class EncodersConfig(Config):
    """Weights of the encoders: the path of a folder or file, or a hub id."""

    dino_vits16: str = "facebook/dino-vits16"
    """DINO ViT-S/16: a folder of transformers, or `dino_deitsmall16_pretrain.pth`."""
    dino_vits8: str = "facebook/dino-vits8"
    """DINO ViT-S/8 of DreamBench++: a folder of transformers, or `dino_deitsmall8_pretrain.pth`."""
    dinov2_vits14: str = "facebook/dinov2-small"
    """DINOv2 ViT-S/14 of DreamBench++: a folder of transformers, or `dinov2_vits14_pretrain.pth`."""
    clip_vitb32: str = "openai/clip-vit-base-patch32"
    """OpenAI's CLIP ViT-B/32: `ViT-B-32.pt`, or a folder of OpenCLIP or transformers."""
    clip_vitl14: str = "openai/clip-vit-large-patch14"
    """OpenAI's CLIP ViT-L/14 of FastComposer: `ViT-L-14.pt`, or a folder of OpenCLIP or transformers."""
    facenet: str | None = None
    """InceptionResnetV1 of FastComposer's identity: `20180402-114759-vggface2.pt`; no other protocol needs it."""


class SampleConfig(Config):
    """Settings of the sampler; unset ones are those of the model's folder, for the paper's model Sec. 4 and App. D."""

    steps: Count | None = None
    """Denoising steps."""
    scheduler: str | None = Field(default=None, max_length=100)
    """Scheduler of diffusers without its ending, such as `PNDM`."""
    text_guidance: Factor | None = None
    """Scale of the text."""
    image_guidance: Factor | None = None
    """Scale of the subjects."""
    interpolation: Share | None = None
    """Eq. 4's alpha: share of the noise schedule, from its end, that uses the text alone."""
    strength: Factor = 1.0
    """Factor on the adapters' attention to the subjects."""


class SweepConfig(Config):
    """Values to try, one setting at a time with the others as in `evaluation.sample`; empty lists try none."""

    steps: tuple[Count, ...] = ()
    """Denoising steps."""
    scheduler: tuple[str, ...] = ()
    """Schedulers."""
    text_guidance: tuple[Factor, ...] = ()
    """Scales of the text."""
    image_guidance: tuple[Factor, ...] = ()
    """Scales of the subjects."""
    interpolation: tuple[Share, ...] = ()
    """Alphas of Eq. 4."""
    strength: tuple[Factor, ...] = ()
    """Factors on the adapters' attention."""

    def variants(self, base: SampleConfig) -> dict[str, SampleConfig]:
        """Return the settings of each run by its name, such as `steps=20`, that of the base first as `base`."""
        tried = ((name, value) for name in type(self).model_fields for value in getattr(self, name))
        changed = {f"{name}={value}": base.model_copy(update={name: value}) for name, value in tried}
        return dict(chain({"base": base}.items(), changed.items()))


class EvaluationConfig(Config):
    """Settings of `subject-diffusion evaluate`."""

    benchmark: str = "dreambench"
    """Name of a benchmark, or path of a benchmark's file (.toml or .json)."""
    protocols: tuple[str, ...] = ("subject-diffusion", "dreambooth", "all-but-input")
    """Names of protocols; each has a table of its own in the report."""
    images_per_case: Count | None = None
    """Images of each case; unset for the benchmark's number."""
    cases: Count | None = None
    """Cases, evenly spread over the benchmark, to try something quickly; unset for all. Scores of a part of a benchmark
    are comparable with those of the same part only."""
    layout: ImageLayout = ImageLayout.CASES
    """Arrangement of a folder of images that is given."""
    allow_missing: bool = False
    """Leave images out that are missing or unreadable, and show how many, instead of stopping."""
    encoders: EncodersConfig = EncodersConfig()
    sample: SampleConfig = SampleConfig()
    sweep: SweepConfig = SweepConfig()
