"""The entities of one image after the corrections of people.

Corrections are applied one after another, the earliest first. Each names its entity by the label and box that the
person saw, which may be from before another correction that was not known yet; so an entity is found by what it is now,
or else by what it was before. Of two corrections of the same side of an entity, the later one wins.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from labeling.sdd import masks
from labeling.sdd.corrections import Action, Correction, ReviewedCorrection, SeenEntity
from labeling.sdd.schema import Box, Candidate, JudgedCorrection, Segment
from labeling.sdd.spans import label_span


class Outcome(StrEnum):
    """What became of a correction."""

    APPLIED = "applied"
    SUPERSEDED = "superseded"
    """A later correction of the same entity replaced it."""
    NO_ENTITY = "no_entity"
    """The image has no such entity: the networks found others since."""
    BOX_OUTSIDE = "box_outside"
    """The box covers nothing of the image."""
    NOT_LABELLED = "not_labelled"
    """The image has no candidates, because a stage refused it."""


@dataclass(frozen=True, slots=True)
class CorrectedCandidate:
    """A candidate after the corrections."""

    candidate: Candidate
    is_corrected: bool
    """Whether a person moved, relabelled or added it."""
    is_removed: bool
    """Whether a person removed it."""

    @property
    def wants_mask(self) -> bool:
        """Whether the segmenter has to mask its box."""
        return self.is_corrected and not self.is_removed and self.candidate.segment is None


@dataclass(frozen=True, slots=True)
class CorrectedImage:
    """The candidates of an image after the corrections, added ones last, and what became of each correction."""

    candidates: tuple[CorrectedCandidate, ...]
    corrections: tuple[JudgedCorrection, ...]

    @property
    def without_mask(self) -> tuple[Candidate, ...]:
        """Candidates whose boxes the segmenter has to mask, in order."""
        return tuple(each.candidate for each in self.candidates if each.wants_mask)

    def with_segments(self, segments: Sequence[Segment | None]) -> "CorrectedImage":
        """Return the image with the masks of `without_mask`, in order; None where the segmenter found nothing."""
        masked = iter(segments)
        candidates = tuple(
            replace(each, candidate=replace(each.candidate, segment=next(masked))) if each.wants_mask else each
            for each in self.candidates
        )
        return replace(self, candidates=candidates)


class Correctable(Protocol):
    """An image with its candidates and caption."""

    @property
    def caption(self) -> str:
        """Caption of the image."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Candidates of `entities/`."""

    @property
    def width_px(self) -> int:
        """Width of the image."""

    @property
    def height_px(self) -> int:
        """Height of the image."""


@dataclass
class _Subject:
    """A candidate while corrections are applied to it."""

    candidate: Candidate
    was: list[SeenEntity]
    """Labels and boxes that it has had, the present ones last."""
    is_corrected: bool = False
    is_removed: bool = False
    latest: dict[Action, int] = field(default_factory=dict)
    """Number of the latest correction of each kind that is in force."""


def correct(
    candidates: Sequence[Candidate],
    caption: str,
    width_px: int,
    height_px: int,
    corrections: Sequence[ReviewedCorrection],
) -> CorrectedImage:
    """Apply the corrections of an image to its candidates.

    Args:
        candidates: candidates of the image in `entities/`.
        caption: caption of the image, in which labels of people are looked up.
        width_px: width of the image.
        height_px: height of the image.
        corrections: corrections of the image, the earliest first.
    """
    replay = _Replay(caption, width_px, height_px, [_Subject(c, [_seen(c)]) for c in candidates])
    for reviewed in corrections:
        replay.apply(reviewed)
    return CorrectedImage(
        tuple(CorrectedCandidate(s.candidate, s.is_corrected, s.is_removed) for s in replay.subjects),
        tuple(replay.judged),
    )


def corrections_by_key(corrections: Sequence[ReviewedCorrection]) -> Mapping[bytes, Sequence[ReviewedCorrection]]:
    """Return the corrections of each image of a shard, in their order."""
    by_key: defaultdict[bytes, list[ReviewedCorrection]] = defaultdict(list)
    for each in corrections:
        by_key[each.correction.key].append(each)
    return by_key


def correct_image(image: Correctable, corrections: Sequence[ReviewedCorrection]) -> CorrectedImage:
    """Return the candidates of an image after its corrections."""
    return correct(image.candidates, image.caption, image.width_px, image.height_px, corrections)


def judged(reviewed: ReviewedCorrection, outcome: Outcome) -> JudgedCorrection:
    """Return the ledger's entry for a correction."""
    correction = reviewed.correction
    seen = correction.entity
    label = correction.label or (seen.label if seen else None)
    box = correction.box or (seen.box if seen else None)
    assert label is not None, "read_corrections refuses a correction without label and entity"
    assert box is not None, "read_corrections refuses a correction without box and entity"
    return JudgedCorrection(
        action=correction.action,
        outcome=outcome,
        label=label,
        box=box,
        author=correction.author,
        made_at=correction.made_at,
        review=reviewed.review,
    )


@dataclass
class _Replay:
    caption: str
    width_px: int
    height_px: int
    subjects: list[_Subject]
    judged: list[JudgedCorrection] = field(default_factory=list)

    def apply(self, reviewed: ReviewedCorrection) -> None:
        """Apply the next correction, and mark those that it supersedes."""
        correction, number = reviewed.correction, len(self.judged)
        box = None if correction.box is None else self._clip(correction.box)
        if box is not None and not box.area_px:
            self.judged.append(judged(reviewed, Outcome.BOX_OUTSIDE))
            return
        subject = self._find(correction, box)
        if subject is None:
            self.judged.append(judged(reviewed, Outcome.NO_ENTITY))
            return
        self.judged.append(judged(reviewed, Outcome.APPLIED))
        action = Action(correction.action)
        for former in _superseded_by(action, subject):
            at = subject.latest.pop(former)
            self.judged[at] = replace(self.judged[at], outcome=Outcome.SUPERSEDED)
        subject.latest[action] = number
        subject.is_removed = action is Action.REMOVED
        if not subject.is_removed:
            subject.is_corrected = True
            subject.candidate = self._corrected(subject.candidate, correction, box)
            subject.was.append(_seen(subject.candidate))

    def _find(self, correction: Correction, box: Box | None) -> _Subject | None:
        """Return the subject of a correction, new for an added entity; None if there is none."""
        seen = correction.entity
        if seen is None:
            assert correction.label is not None, "an added entity has a label"
            assert box is not None, "an added entity has a box"
            start, end = label_span(correction.label, self.caption)
            added = Candidate(label=correction.label, span_start=start, span_end=end, score=1.0, box=box, segment=None)
            self.subjects.append(_Subject(added, []))
            return self.subjects[-1]
        present = [each for each in self.subjects if each.was[-1] == seen]
        former = [each for each in self.subjects if seen in each.was]
        return next(iter([*present, *former]), None)

    def _corrected(self, candidate: Candidate, correction: Correction, box: Box | None) -> Candidate:
        """Return the candidate with the label, box and mask of a correction. The score 1 is that of a person."""
        label, segment = correction.label or candidate.label, candidate.segment
        start, end = candidate.span_start, candidate.span_end
        if label != candidate.label:
            start, end = label_span(label, self.caption)
        if box is not None:
            segment = None if correction.mask is None else _segment(correction)
        return Candidate(
            label=label, span_start=start, span_end=end, score=1.0, box=box or candidate.box, segment=segment
        )

    def _clip(self, box: Box) -> Box:
        def x(value: float) -> float:
            return min(max(value, 0.0), float(self.width_px))

        def y(value: float) -> float:
            return min(max(value, 0.0), float(self.height_px))

        return Box(x0=x(box.x0), y0=y(box.y0), x1=x(box.x1), y1=y(box.y1))


def _superseded_by(action: Action, subject: _Subject) -> list[Action]:
    """Return the kinds of corrections in force that the next one replaces: its own kind, and removal against all."""
    if action is Action.REMOVED:
        return list(subject.latest)
    return [former for former in (action, Action.REMOVED) if former in subject.latest]


def _seen(candidate: Candidate) -> SeenEntity:
    return SeenEntity(label=candidate.label, box=candidate.box)


def _segment(correction: Correction) -> Segment | None:
    """Return the mask that a person drew, with scores of 1."""
    mask = correction.mask
    area_px = 0 if mask is None else masks.area_px(mask)
    if mask is None or not area_px:
        return None
    return Segment(mask=mask, area_px=area_px, predicted_iou=1.0, stability=1.0)
