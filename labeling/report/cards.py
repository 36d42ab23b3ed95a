"""Images of samples with their labels drawn over them, kept and dropped ones."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image as Pillow

from infra.report.document import AnnotatedImage, Picture
from labeling.report.overlay import Mark, draw_marks
from labeling.report.samples import Sample, rows_of_samples
from labeling.report.staging import StagedDataset
from labeling.sdd.pixels import UndecodableImage, decode
from labeling.sdd.schema import Candidate, Entity, JudgedCandidate, Layer

THUMBNAIL_PX = 288
"""Larger side of a thumbnail."""
_QUALITY = 68
_URL_LETTERS = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptImage:
    """Columns of `sdd/` that a card shows."""

    key: bytes
    url: str
    caption: str
    entities: tuple[Entity, ...]
    width_px: int
    height_px: int
    image: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """Columns of `images/`; None for an image that its own stage refused."""

    key: bytes
    width_px: int | None
    height_px: int | None
    image: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionOf:
    """Columns of `captions/`."""

    key: bytes
    caption: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatesOf:
    """Columns of `entities/`."""

    key: bytes
    candidates: tuple[Candidate, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictOn:
    """Columns of `ledger/`."""

    key: bytes
    url: str
    detail: str
    candidates: tuple[JudgedCandidate, ...]


def kept_cards(dataset: StagedDataset, samples: Sequence[Sample]) -> Iterator[AnnotatedImage]:
    """Yield images of `sdd/` with their entities."""
    rows = rows_of_samples(dataset.store, Layer.SDD, KeptImage, samples)
    for row in (rows[sample.key] for sample in samples if sample.key in rows):
        marks = [Mark(one.label, _about_entity(one), one.box, one.mask) for one in row.entities]
        yield AnnotatedImage(
            picture=_picture(row.key, row.image, row.caption),
            width_px=row.width_px,
            height_px=row.height_px,
            overlay=draw_marks(marks, row.width_px, row.height_px),
            facets={"label": tuple(sorted({one.label for one in row.entities}))},
            notes=(row.url[:_URL_LETTERS], f"{row.width_px} x {row.height_px} px"),
        )


def dropped_cards(dataset: StagedDataset, samples: Sequence[Sample]) -> Iterator[AnnotatedImage]:
    """Yield images that left the dataset, with their boxes and the rules that these break, if `images/` has them."""
    store = dataset.store
    images = rows_of_samples(store, Layer.IMAGES, StoredImage, samples)
    samples = [sample for sample in samples if sample.key in images]
    captions = rows_of_samples(store, Layer.CAPTIONS, CaptionOf, samples)
    candidates = rows_of_samples(store, Layer.ENTITIES, CandidatesOf, samples)
    verdicts = rows_of_samples(store, Layer.LEDGER, VerdictOn, samples)
    for sample in samples:
        image, verdict, caption = images[sample.key], verdicts[sample.key], captions.get(sample.key)
        if image.image is None or image.width_px is None or image.height_px is None:
            continue
        marks = list(_judged_marks(verdict, candidates.get(sample.key)))
        yield AnnotatedImage(
            picture=_picture(sample.key, image.image, (caption and caption.caption) or "(no caption)"),
            width_px=image.width_px,
            height_px=image.height_px,
            overlay=draw_marks(marks, image.width_px, image.height_px),
            facets={"reason": (sample.reason,), "label": tuple(sorted({mark.label for mark in marks}))},
            notes=(f"{sample.reason} ({sample.stage}) {verdict.detail}"[:_URL_LETTERS], verdict.url[:_URL_LETTERS]),
        )


def _judged_marks(verdict: VerdictOn, found: CandidatesOf | None) -> Iterator[Mark]:
    """Yield the judged candidates; `entities/` has their masks, in the same order."""
    stored = (found and found.candidates) or ()
    masks = [None if one.segment is None else one.segment.mask for one in stored]
    if len(masks) != len(verdict.candidates):  # entities/ was made again since
        masks = [None] * len(verdict.candidates)
    for judged, mask in zip(verdict.candidates, masks, strict=True):
        about = f"{judged.label}, score {judged.score:.2f}: {', '.join(judged.broken) or 'breaks no rule'}"
        yield Mark(judged.label, about, judged.box, mask, refused=bool(judged.broken))


def _about_entity(entity: Entity) -> str:
    return (
        f"{entity.label}, score {entity.score:.2f}, predicted IoU {entity.predicted_iou:.2f}, "
        f"stability {entity.stability:.2f}"
    )


def _picture(key: bytes, encoded: bytes, caption: str) -> Picture:
    """Return a thumbnail; one without content for an image that cannot be decoded."""
    try:
        image = Pillow.fromarray(decode(encoded))
    except UndecodableImage as error:
        return Picture(key.hex(), b"", caption, f"undecodable image: {error}")
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Pillow.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=_QUALITY, method=4)
    return Picture(key.hex(), content.getvalue(), caption, caption)
