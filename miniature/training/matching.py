"""Which of what was found is which of what is there."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from labeling.sdd.schema import Box

MIN_BOX_IOU = 0.5


class Labelled(Protocol):
    """A box with a word, as a stage wrote it."""

    @property
    def label(self) -> str: ...
    @property
    def box(self) -> Box: ...


class Known(Protocol):
    """A subject of a scene: it may be called by its name or by its class word."""

    @property
    def name(self) -> str: ...
    @property
    def class_word(self) -> str: ...
    @property
    def box(self) -> Box: ...


F = TypeVar("F", bound=Labelled)
K = TypeVar("K", bound=Known)


def called(label: str, subject: Known) -> bool:
    """Whether `label` is a word for the subject."""
    return label in (subject.name, subject.class_word)


def matched_boxes(found: Sequence[F], known: Sequence[K], min_iou: float = MIN_BOX_IOU) -> list[tuple[F, K, float]]:
    """Pairs that the label fits and whose boxes overlap by `min_iou` or more, with their IoU; best first, each once."""
    overlaps = [
        (f.box.iou(k.box), i, j) for i, f in enumerate(found) for j, k in enumerate(known) if called(f.label, k)
    ]
    pairs = sorted((pair for pair in overlaps if pair[0] >= min_iou), key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [(found[i], known[j], overlap) for overlap, i, j in _each_once(pairs)]


def matched_words(labels: Sequence[str], known: Sequence[K]) -> list[tuple[str, K]]:
    """Labels and the subjects that they call, each once: own names first, then class words."""
    ranked = [
        (0.0 if label == subject.name else 1.0, i, j)
        for i, label in enumerate(labels)
        for j, subject in enumerate(known)
        if called(label, subject)
    ]
    return [(labels[i], known[j]) for _, i, j in _each_once(sorted(ranked))]


def _each_once(pairs: Iterable[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    left: set[int] = set()
    right: set[int] = set()
    chosen = []
    for value, i, j in pairs:
        if i not in left and j not in right:
            left.add(i)
            right.add(j)
            chosen.append((value, i, j))
    return chosen
