"""The rules of App. B.1, the cleaning rules and the corrections of people, applied to the images of a shard.

A correction changes the entities that it names and no others: an entity that a person moved, relabelled or added is
judged by the rules of App. B.1 as if it were alone in its image, and all others as if there were no corrections.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from labeling.cleaning.duplicates import Duplicate
from labeling.cleaning.rules import broken_confirmation_rules, broken_entity_rules, broken_image_rules
from labeling.config import CleanConfig, RulesConfig
from labeling.correction.mask_job import MASKS
from labeling.correction.replay import CorrectedCandidate, CorrectedImage, Outcome, correct_image, judged
from labeling.errors import ShardCorrupt
from labeling.rules import broken_rules, mask_fill
from labeling.sdd.corrections import REMOVED, ReviewedCorrection
from labeling.sdd.schema import (
    CONFIRMATIONS,
    Candidate,
    Confirmation,
    Confirmations,
    Entity,
    JudgedCandidate,
    JudgedCorrection,
    SddRow,
    Segment,
    State,
    Verdict,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Columns that the rules read: all of `sdd/` except the entities."""

    key: bytes
    caption: str
    candidates: tuple[Candidate, ...]
    width_px: int
    height_px: int
    url: str
    alt_text: str | None
    aesthetic_score: float | None
    punsafe: float | None
    pwatermark: float | None
    similarity: float | None
    sha256: bytes
    perceptual_hash: int
    media_type: str
    image: bytes


class JudgedImage(NamedTuple):
    """Columns of the ledger for an image that the rules judged."""

    width_px: int | None
    height_px: int | None
    candidates: tuple[JudgedCandidate, ...]
    corrections: tuple[JudgedCorrection, ...] | None = None


NOT_JUDGED = JudgedImage(None, None, ())
"""Columns of the ledger for an image that the rules did not judge."""


class LeftOutEntity(NamedTuple):
    """An entity of a person that breaks a rule, so `sdd/` does not have it."""

    key: bytes
    label: str
    broken: tuple[str, ...]
    """Names of the rules."""


@dataclass
class Judgement:
    """Verdicts of the rules on the images of one shard, collected while its `sdd/` is written."""

    rules: RulesConfig
    corrections: Mapping[bytes, Sequence[ReviewedCorrection]]
    """Corrections of the images, by key."""
    segments: Mapping[bytes, Sequence[Segment | None]]
    """Masks of the boxes that people drew, by key."""
    clean: CleanConfig = field(default_factory=CleanConfig)
    duplicates: Mapping[bytes, Duplicate] = field(default_factory=dict)
    """Images of the shard that repeat an earlier one, by key."""
    confirmations: Mapping[bytes, Confirmations] = field(default_factory=dict)
    """What the second detector found on the images, by key; an image on which it failed is missing."""
    images: dict[bytes, JudgedImage] = field(default_factory=dict)
    verdicts: dict[bytes, Verdict] = field(default_factory=dict)
    left_out: list[LeftOutEntity] = field(default_factory=list)
    """Entities that a person moved, relabelled or added and that break a rule."""

    def rows_of(self, labelled: Iterator[Labelled]) -> Iterator[SddRow]:
        """Judge the images and yield the rows of those that keep an entity."""
        for image in labelled:
            candidates, broken, corrections = self._judge(image)
            judged = tuple(map(_judged_candidate, candidates, broken))
            self.images[image.key] = JudgedImage(image.width_px, image.height_px, judged, corrections)
            kept = [_entity(c) for c, names in zip(candidates, broken, strict=True) if not names]
            if verdict := self._image_verdict(image) or (None if kept else _drop_verdict(broken)):
                self.verdicts[image.key] = verdict
            else:
                yield _sdd_row(image, kept)

    def image(self, key: bytes) -> JudgedImage:
        """Return the columns of the ledger for an image, also for one that the rules did not judge."""
        if key not in self.images and key in self.corrections:
            corrections = tuple(judged(each, Outcome.NOT_LABELLED) for each in self.corrections[key])
            self.images[key] = NOT_JUDGED._replace(corrections=corrections)
        return self.images.get(key, NOT_JUDGED)

    def _image_verdict(self, image: Labelled) -> Verdict | None:
        """Return the verdict on an image as a whole, whatever its entities; None if it stays."""
        if names := broken_image_rules(image, self.clean):
            return Verdict(state=State.DROPPED, reason=names[0], detail=" ".join(names))
        duplicate = self.duplicates.get(image.key)
        if duplicate is None:
            return None
        return Verdict(state=State.DROPPED, reason=duplicate.likeness, detail=str(duplicate))

    def _judge(
        self, image: Labelled
    ) -> tuple[Sequence[Candidate], list[tuple[str, ...]], tuple[JudgedCorrection, ...] | None]:
        """Return the candidates after the corrections, the rules that each breaks, and the judged corrections."""
        by_paper = broken_rules(image.candidates, image.width_px, image.height_px, self.rules)
        by_cleaning = broken_entity_rules(image.candidates, image, self.clean)
        by_second = broken_confirmation_rules(self._confirmations(image), self.clean)
        broken = [(*one, *two, *three) for one, two, three in zip(by_paper, by_cleaning, by_second, strict=True)]
        if image.key not in self.corrections:
            return image.candidates, broken, None
        corrected = self._corrected(image)
        more = [()] * (len(corrected.candidates) - len(broken))
        broken = [
            self._broken(each, by_networks, image)
            for each, by_networks in zip(corrected.candidates, [*broken, *more], strict=True)
        ]
        self.left_out += [
            LeftOutEntity(image.key, each.candidate.label, names)
            for each, names in zip(corrected.candidates, broken, strict=True)
            if each.is_corrected and not each.is_removed and names
        ]
        return [each.candidate for each in corrected.candidates], broken, corrected.corrections

    def _confirmations(self, image: Labelled) -> Sequence[Confirmation | None]:
        """Return the confirmation of each candidate; None if the second detector is off or failed on the image."""
        wanted = len(image.candidates)
        found = self.confirmations.get(image.key)
        if found is not None and len(found.confirmations) != wanted:
            raise ShardCorrupt(
                f"{CONFIRMATIONS}/ compares {len(found.confirmations)} boxes of {image.key.hex()}, not {wanted}: move "
                "it away"
            )
        return found.confirmations if found else [None] * wanted

    def _corrected(self, image: Labelled) -> CorrectedImage:
        corrected = correct_image(image, self.corrections[image.key])
        wanted = len(corrected.without_mask)
        segments = self.segments.get(image.key) or [None] * wanted
        if len(segments) != wanted:
            raise ShardCorrupt(f"{MASKS}/ has {len(segments)} masks of {image.key.hex()}, not {wanted}: move it away")
        return corrected.with_segments(segments)

    def _broken(self, corrected: CorrectedCandidate, by_networks: tuple[str, ...], image: Labelled) -> tuple[str, ...]:
        if corrected.is_removed:
            return (REMOVED,)
        if not corrected.is_corrected:
            return by_networks
        return broken_rules([corrected.candidate], image.width_px, image.height_px, self.rules)[0]


def _drop_verdict(broken: list[tuple[str, ...]]) -> Verdict:
    """Return the verdict on an image without an entity, by the first rule of the candidate that breaks fewest.

    An image of which a person removed an entity is dropped for that.
    """
    if not broken:
        return Verdict(state=State.DROPPED, reason="no_candidate")
    fewest = min(broken, key=lambda names: (REMOVED not in names, len(names)))
    return Verdict(state=State.DROPPED, reason=fewest[0], detail="; ".join(" ".join(names) for names in broken)[:500])


def _judged_candidate(candidate: Candidate, broken: tuple[str, ...]) -> JudgedCandidate:
    segment = candidate.segment
    return JudgedCandidate(
        label=candidate.label,
        score=candidate.score,
        box=candidate.box,
        mask_fill=None if segment is None else mask_fill(candidate.box, segment),
        predicted_iou=None if segment is None else segment.predicted_iou,
        stability=None if segment is None else segment.stability,
        broken=broken,
    )


def _entity(candidate: Candidate) -> Entity:
    assert candidate.segment is not None, "a candidate without a mask breaks the rule no_mask"
    return Entity(
        label=candidate.label,
        span_start=candidate.span_start,
        span_end=candidate.span_end,
        score=candidate.score,
        box=candidate.box,
        mask=candidate.segment.mask,
        mask_area_px=candidate.segment.area_px,
        predicted_iou=candidate.segment.predicted_iou,
        stability=candidate.segment.stability,
    )


def _sdd_row(image: Labelled, entities: list[Entity]) -> SddRow:
    return SddRow(
        key=image.key,
        caption=image.caption,
        entities=tuple(sorted(entities, key=lambda e: e.box.area_px, reverse=True)),
        width_px=image.width_px,
        height_px=image.height_px,
        url=image.url,
        alt_text=image.alt_text,
        aesthetic_score=image.aesthetic_score,
        punsafe=image.punsafe,
        pwatermark=image.pwatermark,
        similarity=image.similarity,
        sha256=image.sha256,
        perceptual_hash=image.perceptual_hash,
        media_type=image.media_type,
        image=image.image,
    )
