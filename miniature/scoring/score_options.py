"""Options of the score of subjects: the set of subjects, the hints that the model gets, and conditions to leave out.

The module loads no network, so that the command line can list the choices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from model.sampling.config import SamplingConfig
from model.sampling.guidance import Guidance

SAMPLING = SamplingConfig(scheduler="DDIM", steps=25, guidance=Guidance(text=2.0, image=4.0))
"""Sampling settings. Of the scales of image guidance that were tried, 4 is the largest with which all backgrounds of
`--asked untaught` are right; with 5 the share is .95."""


class SubjectSet(StrEnum):
    """Set of subjects to score with."""

    HELD_OUT = "held_out"
    """Subjects that no network has seen, for the reported scores."""
    UNTAUGHT = "untaught"
    """Subjects that the base and the judges were trained on but the labelling networks were not, so no dataset contains
    them; for choosing settings."""


class PlaceHint(StrEnum):
    """Information about a subject's place that the model gets."""

    OUTLINE = "outline"
    """The subject's outline in the scene, and its bounds."""
    BOX = "box"
    """The bounds only; the outline of the reference is fitted into them."""
    FILLED_BOX = "filled box"
    """The bounds only, with the whole box marked."""
    AUTO = "auto"
    """No place: the default layout of the pipeline chooses one. For one subject."""
    NOTHING = "nothing"
    """No place: the model chooses. For one subject, and for models that were trained with unmarked subjects."""


WITHOUT_PLACE = frozenset({PlaceHint.AUTO, PlaceHint.NOTHING})
"""Hints that leave the place of the subject open."""


class LeftOut(StrEnum):
    """Conditions of the network that are left out."""

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


class Control(StrEnum):
    """Argument of the pipeline that an experiment changes."""

    SAMPLER = "sampler"
    """Scheduler and steps: the card's, and quick ones; three samplings each."""
    PHOTOS = "photos"
    """Number of photos of a subject, each in another pose."""
    STRENGTH = "strength"
    """Strength of the subject."""
    INTERPOLATION = "interpolation"
    """Share of the schedule that uses the text alone (Eq. 4)."""
    INTO_PHOTO = "into a photo"
    """Generation into another scene, in place of the subject that it shows."""


@dataclass(frozen=True)
class ScoreOptions:
    """All settings of a model's score."""

    asked: SubjectSet = SubjectSet.HELD_OUT
    given: PlaceHint = PlaceHint.OUTLINE
    without: Sequence[LeftOut] = tuple(WITHOUT)
    sampling: SamplingConfig = SAMPLING
