"""Settings of the sampler."""

from enum import StrEnum

from infra.config import Config
from infra.ranges import Count, Share
from model.sampling.guidance import Guidance


class Phase(StrEnum):
    """Conditions of the denoising steps in one phase of an interpolation."""

    SUBJECT = "subject"
    """Text and subjects."""
    TEXT = "text"
    """Text alone."""


class Interpolation(Config):
    """Interpolation between subject and text: each phase of denoising uses one of the two (Sec. 4.5, App. E)."""

    alpha: Share
    """Share of the noise schedule, 0 to 1, that is left when the second phase begins (Eq. 4). At 0 there is no
    second phase, at 1 no first."""
    first: Phase = Phase.SUBJECT
    """Phase that comes first. `subject`, the paper's order, keeps the subject's outline; `text` keeps the layout of the
    text's image."""


class SamplingConfig(Config):
    """Settings of the sampler."""

    scheduler: str = "PNDM"
    """Name of a diffusers scheduler without its ending "Scheduler" (App. D)."""
    steps: Count = 50
    """Number of denoising steps, at least 1 (App. D)."""
    guidance: Guidance = Guidance()
    """Scales of text and image guidance."""
    interpolation: Interpolation | None = None
    """Interpolation between subject and text; None uses the subjects in all steps."""

    def pipeline_defaults(self) -> dict[str, float]:
        """Return steps and guidance as arguments of the pipeline."""
        return {
            "num_inference_steps": self.steps,
            "text_guidance": self.guidance.text,
            "image_guidance": self.guidance.image,
        }
