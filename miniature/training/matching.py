"""Matches predicted boxes and words with the subjects of a scene."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from labeling.sdd.schema import Box

MIN_BOX_IOU = 0.5


class Labelled(Protocol):
    """A predicted box with a word."""

    @property
    def label(self) -> str:
        """Word for the content of the box."""

    @property
    def box(self) -> Box:
        """Predicted box."""


class NamedBox(Protocol):
    """A subject of a scene, which has a name and a class word."""

    @property
    def name(self) -> str:
        """Name of its sprite."""

    @property
    def class_word(self) -> str:
        """Coarser word for it."""

    @property
    def box(self) -> Box:
        """True box."""


PredictedT = TypeVar("PredictedT", bound=Labelled)
SubjectT = TypeVar("SubjectT", bound=NamedBox)


def is_word_for(label: str, subject: NamedBox) -> bool:
    """Return whether `label` is a word for the subject."""
    return label in (subject.name, subject.class_word)


def match_boxes(
    predicted: Sequence[PredictedT], subjects: Sequence[SubjectT], min_iou: float = MIN_BOX_IOU
) -> list[tuple[PredictedT, SubjectT, float]]:
    """Return pairs with a fitting label and an IoU of at least `min_iou`, with their IoU, best first, each box once."""
    overlaps = [
        (one.box.iou(subject.box), i, j)
        for i, one in enumerate(predicted)
        for j, subject in enumerate(subjects)
        if is_word_for(one.label, subject)
    ]
    pairs = sorted((pair for pair in overlaps if pair[0] >= min_iou), key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [(predicted[i], subjects[j], overlap) for overlap, i, j in _use_once(pairs)]


def match_words(labels: Sequence[str], subjects: Sequence[SubjectT]) -> list[tuple[str, SubjectT]]:
    """Return pairs of labels and subjects, each used once; names take precedence over class words."""
    ranked = [
        (0.0 if label == subject.name else 1.0, i, j)
        for i, label in enumerate(labels)
        for j, subject in enumerate(subjects)
        if is_word_for(label, subject)
    ]
    return [(labels[i], subjects[j]) for _, i, j in _use_once(sorted(ranked))]


def _use_once(pairs: Iterable[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    left: set[int] = set()
    right: set[int] = set()
    chosen = []
    for value, i, j in pairs:
        if i not in left and j not in right:
            left.add(i)
            right.add(j)
            chosen.append((value, i, j))
    return chosen
