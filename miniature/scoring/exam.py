"""What a model is asked in the score of subjects: which subjects, with which help, without which conditions.

Importing it loads no network, so that the command line can list the choices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from model.sampling.config import SamplingConfig
from model.sampling.guidance import Guidance

SAMPLING = SamplingConfig(scheduler="DDIM", steps=25, guidance=Guidance(text=2.0, image=4.0))
"""Guidance by the image is the strongest tried with which all backgrounds of `--asked untaught` are right; at 5 .95."""


class SubjectSet(StrEnum):
    """Which subjects the model is asked for."""

    HELD_OUT = "held_out"
    """Subjects that no network has seen: the reported figures."""
    UNTAUGHT = "untaught"
    """Subjects that no labelling network was taught, so no dataset has them; base and judges have seen them. For
    choosing settings."""


class PlaceHint(StrEnum):
    """What the model is given of the place where a subject is wanted."""

    OUTLINE = "outline"
    """The outline that the subject has in the scene, and its bounds."""
    BOX = "box"
    """The bounds alone: the outline of the reference is fitted into them."""
    FILLED_BOX = "filled box"
    """The bounds alone, marked as a whole, which no model here was trained with."""


class LeftOut(StrEnum):
    """Which conditions of the network are left out."""

    NOTHING = "nothing"
    ADAPTER = "adapter"
    CLS = "CLS"
    MASK = "mask"
    ALL = "all three"


WITHOUT: Mapping[LeftOut, frozenset[LeftOut]] = {
    LeftOut.NOTHING: frozenset(),
    LeftOut.ADAPTER: frozenset({LeftOut.ADAPTER}),
    LeftOut.CLS: frozenset({LeftOut.CLS}),
    LeftOut.MASK: frozenset({LeftOut.MASK}),
    LeftOut.ALL: frozenset({LeftOut.ADAPTER, LeftOut.CLS, LeftOut.MASK}),
}
"""Conditions that each choice leaves out."""


@dataclass(frozen=True)
class ScoreOptions:
    """Everything that decides a model's score, besides the model."""

    asked: SubjectSet = SubjectSet.HELD_OUT
    given: PlaceHint = PlaceHint.OUTLINE
    without: Sequence[LeftOut] = tuple(WITHOUT)
    sampling: SamplingConfig = SAMPLING
