"""Names and meanings of the metrics, for tables."""

from collections.abc import Iterator
from dataclasses import dataclass

from evaluation.protocols import EncoderSpec, Protocol

CLIP_T = "CLIP-T"
MISSING, SWAPPED, MERGED = "Missing", "Swapped", "Merged"
BOX_IOU = "Box IoU"
ASPECT_CHANGE = "Aspect change"
IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of images."""

    name: str
    """Name in tables and files."""
    meaning: str
    """What it measures, in one sentence."""
    higher_is_better: bool
    """Direction of an improvement."""


def likeness(spec: EncoderSpec) -> Metric:
    """Return the similarity to the subject."""
    return Metric(spec.metric, f"Cosine to the subject's photos in the space of {spec.name}.", True)


def lowest(spec: EncoderSpec) -> Metric:
    """Return the similarity to the subject that an image of several shows least."""
    return Metric(f"{spec.metric} lowest", "Cosine to the photos of the subject that the image shows least.", True)


def product(spec: EncoderSpec) -> Metric:
    """Return the product of the similarities to several subjects (M-DINO of MS-Bench)."""
    return Metric(f"{spec.metric} product", "Product of the similarities to all subjects; one missing lowers it.", True)


def copying(spec: EncoderSpec) -> Metric:
    """Return the copy-paste score."""
    return Metric(
        f"{spec.metric} copy", "Cosine to the input photo minus that to the subject's other photos: copy-paste.", False
    )


def in_place(spec: EncoderSpec) -> Metric:
    """Return the similarity of each subject's requested region to the subject."""
    meaning = "Cosine of the image's content in each subject's requested box to the subject's photos."
    return Metric(f"{spec.metric} in place", meaning, True)


PROMPT = Metric(CLIP_T, "Cosine of image and prompt.", True)
FACES = Metric(IDENTITY, "Cosine of the image's first face and that of the input photo; 0 without a face.", True)
PRESENCE = (
    Metric(MISSING, "Share of images in which a subject is like no region; 0 is best.", False),
    Metric(SWAPPED, "Share of images whose subjects are in each other's regions; 0 is best.", False),
    Metric(MERGED, "Share of images in which one region has the traits of two subjects; 0 is best.", False),
)
PLACE = Metric(BOX_IOU, "Intersection over union of the requested and the detected boxes; 1 is best.", True)

POSE = Metric(
    ASPECT_CHANGE,
    "Factor between the subject's aspect ratios in the input photo and in the image, as |log2|: 0 for none, 1 for 2. "
    "The trace of a new pose that boxes hold; a copy has 0.",
    True,
)


def all_metrics(protocol: Protocol) -> Iterator[Metric]:
    """Yield all metrics of a protocol."""
    for spec in protocol.subject_encoders:
        yield from (likeness(spec), lowest(spec), product(spec), copying(spec))
    if protocol.subject_encoders:
        yield in_place(protocol.subject_encoders[0])
    if protocol.prompt_encoder is not None:
        yield PROMPT
    if protocol.faces:
        yield FACES
    yield from (*PRESENCE, PLACE, POSE)
