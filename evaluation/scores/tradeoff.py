"""The trade-off between likeness to the subject and to the prompt, over settings of one model."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """One setting."""

    name: str
    """Name of the setting, such as `image guidance 1.5`."""
    prompt: float
    """Likeness to the prompt."""
    subject: float
    """Likeness to the subject."""


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the settings that no other one equals or beats in both likenesses, by falling likeness to the prompt."""
    front: list[Point] = []
    for point in sorted(points, key=lambda one: (-one.prompt, -one.subject, one.name)):
        if not front or point.subject > front[-1].subject:
            front.append(point)
    return front
