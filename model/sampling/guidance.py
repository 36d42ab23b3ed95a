"""Guidance by text and by image: which branches of the denoiser a step runs, and how their predictions add up.

The paper samples with "a fixed text guidance scale 3 and image guidance scale 1.5" (App. D) and gives no formula.
Choice: InstructPix2Pix's, whose two scales these are,

    eps = e_0 + s_image (e_image - e_0) + s_text (e_text,image - e_image),

with e_0 the prediction without text and image, e_image the one with the image alone.
"""

from collections.abc import Mapping
from enum import Enum

from infra.config import Config
from infra.ranges import Factor


class Branch(Enum):
    """A prediction of the denoiser, by its conditions.

    Branches are in the order of a batch's rows: those with an image come first.
    """

    TEXT_AND_IMAGE = (True, True)
    IMAGE = (False, True)
    TEXT = (True, False)
    NEITHER = (False, False)

    @property
    def has_text(self) -> bool:
        """True if the prediction uses the text; otherwise the prompt is empty, and so without CLS embeddings."""
        return self.value[0]

    @property
    def has_image(self) -> bool:
        """True if the prediction uses the image; otherwise `NullBranches` applies."""
        return self.value[1]


class Guidance(Config):
    """Scales of text and image guidance."""

    text: Factor = 3.0
    """Scale of the text, s_text (App. D). 1 adds no guidance, 0 ignores the text."""
    image: Factor = 1.5
    """Scale of the image, s_image (App. D). 1 adds no guidance, 0 drops the term e_image - e_0."""

    def subject_coefficients(self) -> dict[Branch, float]:
        """Return the coefficient of each branch in eps_theta(z_t, t, y', x_s, l, l_m); they add up to 1."""
        return _without_zeros(
            {
                Branch.TEXT_AND_IMAGE: self.text,
                Branch.IMAGE: self.image - self.text,
                Branch.NEITHER: 1.0 - self.image,
            }
        )

    def text_coefficients(self) -> dict[Branch, float]:
        """Return the coefficient of each branch in eps_theta(z_t, t, y), the second line of Eq. 4."""
        return _without_zeros({Branch.TEXT: self.text, Branch.NEITHER: 1.0 - self.text})


def _without_zeros(coefficients: Mapping[Branch, float]) -> dict[Branch, float]:
    """Leave out branches of coefficient 0, which need not be computed."""
    return {branch: coefficient for branch, coefficient in coefficients.items() if coefficient != 0.0}
