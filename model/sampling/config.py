"""Settings of the sampler."""

from enum import StrEnum

from infra.config import Config
from infra.ranges import Count, Share
from model.sampling.guidance import Guidance


class Phase(StrEnum):
    SUBJECT = "subject"
    TEXT = "text"


class Interpolation(Config):
    """Between subject and text, by which of them the steps look at (Sec. 4.5, App. E)."""

    alpha: Share
    """Share of the noise schedule left when the second phase begins (Eq. 4): at 0 there is no second, at 1 no first."""
    first: Phase = Phase.SUBJECT
    """The paper's order: the subject's outline first, then text alone. The reverse keeps the text's layout."""


class SamplingConfig(Config):
    scheduler: str = "PNDM"
    """Name of a diffusers scheduler, without the word Scheduler (App. D)."""
    steps: Count = 50
    """Denoising steps (App. D)."""
    guidance: Guidance = Guidance()
    interpolation: Interpolation | None = None
    """None looks at the subjects throughout."""
