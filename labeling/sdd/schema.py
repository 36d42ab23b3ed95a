"""The files of the dataset, one row class per kind of file; `SddRow` is the dataset's own row.

Only this module names, types and explains columns. A change here changes the format: raise VERSION and record the new
tests/golden/sdd_schema.txt. Files of earlier versions stay readable: mark a renamed field with its `FormerName`, and
give a new field a type that may be None.

Boxes, masks and sizes are in pixels of the stored image *after* its EXIF orientation is applied.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from labeling.sdd.arrow import Float32, FormerName, Int32, Int64, Key, Label, LargeBytes, Sha256

VERSION = 3
READABLE = (1, 2, VERSION)
"""Versions that this program reads. Version 1 named a noun's span `start` and `end` (a keyword of SQL), and its ledger
had no image sizes, no removed nouns and no scores of the segmenter. The ledger of version 2 had no corrections."""
SpanStart = Annotated[Int32, FormerName("start")]
SpanEnd = Annotated[Int32, FormerName("end")]


CONFIRMATIONS = "confirmations"
"""Folder of what a second detector found; made only if `labeling.confirm` is on, and no layer of the dataset."""

EMBEDDINGS = "embeddings"
"""Folder of the images' embeddings; made only if `labeling.clean.near_duplicate_cosine` is set."""
SIMILAR = "similar"
"""Folder of the images that are similar to an earlier one; made only if `labeling.clean.near_duplicate_cosine` is."""


class Layer(StrEnum):
    """The folders of a dataset, in the order in which their files are made."""

    URLS = "urls"
    IMAGES = "images"
    CAPTIONS = "captions"
    NOUNS = "nouns"
    DETECTIONS = "detections"
    ENTITIES = "entities"
    SDD = "sdd"
    LEDGER = "ledger"


class State(StrEnum):
    """Final state of an input URL; each URL has exactly one."""

    KEPT = "kept"
    DROPPED = "dropped"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    NOT_DOWNLOADED = "not_downloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Reason why an image leaves the dataset."""

    state: Label
    """A `State` other than kept."""
    reason: Label
    """Reason in one countable word: a rule, the class of an exception, an HTTP status."""
    detail: str = ""
    """Further explanation for a person: the message, the refused value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """An axis-aligned box; (x0, y0) is inside, (x1, y1) is just outside."""

    x0: Float32
    y0: Float32
    x1: Float32
    y1: Float32

    @property
    def area_px(self) -> float:
        """Area in square pixels; 0 for a box with crossed sides."""
        return max(0.0, self.x1 - self.x0) * max(0.0, self.y1 - self.y0)

    @property
    def aspect(self) -> float:
        """Width over height; infinite for a box without height."""
        height = self.y1 - self.y0
        return (self.x1 - self.x0) / height if height > 0 else float("inf")

    def iou(self, other: "Box") -> float:
        """Return the area of overlap over the area of union, 0 to 1; 0 if one of the boxes has no area."""
        if not (self.area_px > 0 and other.area_px > 0):
            return 0.0
        w = min(self.x1, other.x1) - max(self.x0, other.x0)
        h = min(self.y1, other.y1) - max(self.y0, other.y0)
        overlap = max(0.0, w) * max(0.0, h)
        return overlap / (self.area_px + other.area_px - overlap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """A binary mask, cropped to its bounds: COCO's compressed run lengths over the crop (see labeling.sdd.masks)."""

    counts: bytes
    """COCO RLE counts of the crop [height_px, width_px], column-major."""
    x0: Int32
    """Left edge of the crop in the image."""
    y0: Int32
    """Upper edge of the crop in the image."""
    width_px: Int32
    height_px: Int32


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun:
    """A noun of the caption: a candidate entity tag (Sec. 3.1)."""

    label: Label
    """Lower case and, by default, singular: "fire hydrant" for "two Fire Hydrants"."""
    span_start: SpanStart
    """Offset of its first character in the caption."""
    span_end: SpanEnd
    """Offset just past its last character."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedNoun:
    """A noun of the caption that is not an entity tag."""

    label: Label
    """Label, as in `Noun`."""
    reason: Label
    """stop_word or stop_phrase: the list that contains it; repeated: an earlier noun has the same label. Of imported
    labels: group, body_part (rule 7), other_size, box_not_finite, box_outside, empty_box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """A box in which the detector found a noun."""

    label: Label
    span_start: SpanStart
    span_end: SpanEnd
    score: Float32
    """Confidence of the detector, 0 to 1, by the noun's own tokens only."""
    box: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A mask with SAM's scores."""

    mask: Mask
    area_px: Int32
    predicted_iou: Float32
    """SAM's own estimate of the mask's IoU."""
    stability: Float32
    """IoU of the masks at logit thresholds +1 and -1 (SAM, App. B)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A detection after the segmenter; without a segment if it broke a rule of `segment.floor` or SAM found nothing."""

    label: Label
    span_start: SpanStart
    span_end: SpanEnd
    score: Float32
    box: Box
    segment: Segment | None

    @classmethod
    def from_detection(cls, detection: Detection, segment: Segment | None) -> "Candidate":
        """Return the candidate of a detection with its segment."""
        return cls(
            label=detection.label,
            span_start=detection.span_start,
            span_end=detection.span_end,
            score=detection.score,
            box=detection.box,
            segment=segment,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """A subject of the dataset: a detection with its mask that breaks no rule."""

    label: Label
    span_start: SpanStart
    """Span of the noun in the caption, in characters; the whole caption for an imported label that it lacks."""
    span_end: SpanEnd
    score: Float32
    box: Box
    mask: Mask
    mask_area_px: Int32
    predicted_iou: Float32
    stability: Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedCandidate:
    """A candidate and the rules of App. B.1 that it breaks; none for an entity of the dataset."""

    label: Label
    score: Float32
    box: Box
    mask_fill: Float32 | None
    """Area of the mask over the area of the box, as in rule 6; None without a mask."""
    predicted_iou: Float32 | None
    """SAM's own estimate of the mask's IoU; None without a mask."""
    stability: Float32 | None
    """Stability of the mask, as in `Segment`; None without a mask."""
    broken: tuple[Label, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedCorrection:
    """A correction of a person, and what became of it: see `labeling.sdd.corrections`."""

    action: Label
    """moved, relabelled, removed or added."""
    outcome: Label
    """applied; superseded by a later correction; no_entity: the image has no such entity; box_outside: the box covers
    nothing of the image; not_labelled: a stage refused the image."""
    label: Label
    """Label of the entity, after a correction of the label."""
    box: Box
    """Box of the entity, after a correction of the box."""
    author: str | None
    """Name of the person."""
    made_at: str | None
    """Time of the correction in ISO 8601."""
    review: Label
    """Name of the file in corrections/, without its suffix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedUrl:
    """`urls/`: a row of the input list."""

    key: Key
    """128-bit hash of the URL and its occurrence number in the list. Joins all files."""
    list_row: Int64
    """Row of the input list, from 0."""
    url: str
    alt_text: str | None
    """LAION's own caption; noisy, and kept for comparison only."""
    similarity: Float32 | None
    laion_hash: Int64 | None
    punsafe: Float32 | None
    pwatermark: Float32 | None
    aesthetic_score: Float32 | None
    listed_width_px: Int32 | None
    """WIDTH of the list, which may differ from the image's width today."""
    listed_height_px: Int32 | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """`images/`: a downloaded image, unchanged."""

    key: Key
    url: str
    alt_text: str | None
    similarity: Float32 | None
    punsafe: Float32 | None
    pwatermark: Float32 | None
    aesthetic_score: Float32 | None
    sha256: Sha256
    perceptual_hash: Int64
    """64-bit difference hash of the upright image, as a signed integer."""
    media_type: Label
    """"image/jpeg", by content, not by the server's header."""
    width_px: Int32
    height_px: Int32
    image: LargeBytes
    """The encoded image, byte for byte as downloaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """`captions/`: the caption of an image."""

    key: Key
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nouns:
    """`nouns/`: the nouns of a caption."""

    key: Key
    nouns: tuple[Noun, ...]
    removed_nouns: tuple[RemovedNoun, ...] | None = None
    """Removed nouns in caption order, also for refused images; None in files of version 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """`detections/`: the boxes of an image."""

    key: Key
    detections: tuple[Detection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entities:
    """`entities/`: every candidate, whatever rules it breaks."""

    key: Key
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What a second detector found in place of a candidate; all None for a candidate without a mask."""

    confirmed_iou: Float32 | None
    """Largest IoU of the candidate's box with a box of the same label; 0 if it overlaps none."""
    confirmed_score: Float32 | None
    """Score of that box by the second detector; None if the candidate overlaps none."""
    label_quality: Float32 | None
    """Label-error score of the label, 0 to 1: 1 minus the largest product of IoU and score among boxes of other
    labels."""
    mask_quality: Float32 | None
    """Label-error score of the mask, 0 to 1: see `labeling.cleaning.rules.mask_quality`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlookedBox:
    """A box of the second detector that overlaps no candidate of its label by half."""

    label: Label
    score: Float32
    box: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmations:
    """`confirmations/`: what a second detector found on an image."""

    key: Key
    confirmations: tuple[Confirmation, ...]
    """One for each candidate of entities/, in their order."""
    overlooked: tuple[OverlookedBox, ...]
    """Boxes that the first detector may have overlooked, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """`embeddings/`: the embedding of an image."""

    key: Key
    embedding: bytes
    """Numbers of the embedding, of length 1, in half precision, little-endian."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarImage:
    """`similar/`: an image whose embedding is similar to that of an earlier one. Other images have no row."""

    key: Key
    original: Key
    """Key of the earliest similar image."""
    shard: Label
    """Shard of that image."""
    cosine: Float32
    """Cosine of the two embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SddRow:
    """`sdd/`: one training example. Columns are in reading order: small ones first, pixels last."""

    key: Key
    caption: str
    entities: tuple[Entity, ...]
    """Entities of the image, at least one, largest box first."""
    width_px: Int32
    height_px: Int32
    url: str
    alt_text: str | None
    aesthetic_score: Float32 | None
    punsafe: Float32 | None
    pwatermark: Float32 | None
    similarity: Float32 | None
    sha256: Sha256
    perceptual_hash: Int64
    media_type: Label
    image: LargeBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """`ledger/`: the verdict on one input URL."""

    key: Key
    list_row: Int64
    url: str
    width_px: Int32 | None
    """Width of the image; None if it left the dataset before the rules."""
    height_px: Int32 | None
    state: Label
    """A `State`."""
    stage: Label
    """Layer of the stage that decided: images, captions, nouns, detections, entities, sdd."""
    reason: Label
    """Reason of the verdict; empty for a kept image."""
    detail: str
    candidates: tuple[JudgedCandidate, ...]
    """Every candidate with the rules that it breaks, kept or not; empty before detection. Corrected ones are as they
    are after the corrections, and one that a person removed has `removed` in place of the rules."""
    removed_nouns: tuple[RemovedNoun, ...] | None
    """Nouns of the caption that the detector did not look for; None without a caption, or in version 1."""
    corrections: tuple[JudgedCorrection, ...] | None = None
    """Corrections of the image by people, the earliest first; None without any, or before version 3."""
