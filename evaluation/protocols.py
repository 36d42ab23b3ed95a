"""Protocols: everything that a score depends on besides the images, by name.

Two numbers are comparable only under the same protocol, so a report never puts two protocols in one table.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from infra.config import Config
from infra.ranges import Count, Factor, Pixels, Share

ShareAboveZero = Annotated[float, Field(gt=0, le=1)]
"""Standard deviation of a channel."""


class Activation(StrEnum):
    """Activation function in the blocks of a vision transformer."""

    GELU = "gelu"
    RELU = "relu"
    QUICK_GELU = "quick_gelu"
    """`x * sigmoid(1.702 x)`, which OpenAI's CLIP weights were trained with."""


class Comparison(StrEnum):
    """Real images of its subject that a generated image is compared with."""

    ALL_REFERENCES = "all_references"
    """All of them, the input image included (DreamBooth)."""
    ALL_BUT_INPUT = "all_but_input"
    """All but the input image, so that a copy of the input gains nothing."""
    ONE_IMAGE = "one_image"
    """The input image only (Kosmos-G)."""


class Average(StrEnum):
    """Order of the means that lead from similarities to a score."""

    MACRO = "macro"
    """Mean by image over its references, by subject over its images, then over subjects."""
    MICRO = "micro"
    """Mean over all pairs of a generated and a real image, which weights subjects by their counts of images."""


class ResizeFilter(StrEnum):
    """Filter of a resize."""

    BICUBIC = "bicubic"
    BILINEAR = "bilinear"


class MissingImages(StrEnum):
    """What happens to an image that is absent, unreadable or has no finite embedding."""

    REFUSE = "refuse"
    """The evaluation stops with an error that names it."""
    LEAVE_OUT = "leave_out"
    """It has no score; the report shows how many there are."""
    ZERO = "zero"
    """It counts as 0."""


class EncoderPrecision(StrEnum):
    """Floating-point format of an encoder's weights and computation."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    """UNO's evaluator loads CLIP in it on a GPU."""
    BFLOAT16 = "bfloat16"


class EncoderSpec(Config):
    """An encoder, and how it sees an image."""

    name: str
    """Name in tables, such as `DINO ViT-S/16`."""
    metric: str
    """Name of the similarity to the subject in this encoder's space, such as `DINO` or `CLIP-I`."""
    architecture: str
    """Architecture in its library's terms, such as `ViT-B-32-quickgelu`."""
    weights: str
    """Id of the published weights, such as `facebook/dino-vits16`."""
    embedding_size: Count
    """Length of an embedding."""
    resize_px: Pixels
    """Length of the image's shorter side after the resize, in pixels."""
    crop_px: Pixels
    """Side of the central square that the network sees, in pixels."""
    interpolation: ResizeFilter = ResizeFilter.BICUBIC
    """Interpolation of the resize."""
    mean: tuple[Share, Share, Share]
    """Mean of each channel, subtracted from values of 0 to 1."""
    std: tuple[ShareAboveZero, ShareAboveZero, ShareAboveZero]
    """Standard deviation of each channel, a divisor."""
    activation: Activation
    """Activation function of the blocks."""
    dtype: EncoderPrecision = EncoderPrecision.FLOAT32
    """Precision of weights and computation."""


class Protocol(Config):
    """A complete set of choices behind the scores of one table."""

    name: str
    """Name, such as `dreambooth`."""
    title: str
    """Name in reports."""
    source: str
    """Publication or code that the choices come from."""
    subject_encoders: tuple[EncoderSpec, ...]
    """Encoders of the similarity to the subject, such as DINO and CLIP-I."""
    prompt_encoder: EncoderSpec | None
    """Encoder of the similarity to the prompt (CLIP-T); None to leave it out."""
    faces: bool = False
    """Whether faces are compared, by a face encoder: the identity of FastComposer's human benchmark."""
    comparison: Comparison
    """Real images that a generated image is compared with."""
    average: Average
    """Order of the means."""
    clip_text_at_zero: bool = False
    """Whether negative similarities to the prompt count as 0."""
    text_scale: Factor = 1.0
    """Factor on similarities to the prompt; 2.5 in Custom Diffusion's evaluator."""
    scale: Factor = 1.0
    """Factor on all scores; 100 in DreamBench++."""
    missing: MissingImages = MissingImages.REFUSE
    """What happens to an image that is absent, unreadable or has no finite embedding."""
    notes: tuple[str, ...] = ()
    """Further choices and quirks, for the header of a report."""
