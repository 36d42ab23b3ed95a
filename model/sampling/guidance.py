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
    """What a prediction is conditioned on. The order is that of the rows of a batch: those with an image come first."""

    TEXT_AND_IMAGE = (True, True)
    IMAGE = (False, True)
    TEXT = (True, False)
    NEITHER = (False, False)

    @property
    def has_text(self) -> bool:
        """Without, the prompt is the empty string, and the CLS features that ride on it are gone as well."""
        return self.value[0]

    @property
    def has_image(self) -> bool:
        """Without, the adapters are off and the location mask is zero (`NullBranches`)."""
        return self.value[1]


class Guidance(Config):
    text: Factor = 3.0
    """s_text (App. D). 1 adds no guidance, 0 leaves the text out."""
    image: Factor = 1.5
    """s_image (App. D). 1 adds no guidance, 0 leaves the image out where the text is."""

    def subject_coefficients(self) -> dict[Branch, float]:
        """How much each branch counts in eps_theta(z_t, t, y', x_s, l, l_m); the coefficients add up to 1."""
        return _needed(
            {
                Branch.TEXT_AND_IMAGE: self.text,
                Branch.IMAGE: self.image - self.text,
                Branch.NEITHER: 1.0 - self.image,
            }
        )

    def text_coefficients(self) -> dict[Branch, float]:
        """How much each branch counts in eps_theta(z_t, t, y), the second line of Eq. 4."""
        return _needed({Branch.TEXT: self.text, Branch.NEITHER: 1.0 - self.text})


def _needed(coefficients: Mapping[Branch, float]) -> dict[Branch, float]:
    return {branch: coefficient for branch, coefficient in coefficients.items() if coefficient != 0.0}
