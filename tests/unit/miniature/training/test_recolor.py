"""Colours are redrawn; shapes stay."""

import pytest
import torch

from miniature.training.recolor import RecolorConfig, recolor

EXACT = RecolorConfig(contrast=(1, 1), saturation=(1, 1), brightness=0)
GREY = RecolorConfig(contrast=(0.5, 0.5), saturation=(0, 0), brightness=0)
TO_LIGHTNESS = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


@pytest.fixture
def image() -> torch.Tensor:
    """A picture with muted colours, which no draw of `EXACT` moves out of the range of pixels."""
    return 0.1 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)


def lightness(images: torch.Tensor) -> torch.Tensor:
    return (images * TO_LIGHTNESS).sum(-3)


def test_hues_turn_and_lightness_keeps_its_pattern(image: torch.Tensor) -> None:
    drawn = recolor(image.expand(8, 3, 16, 16), EXACT)
    patterns = lightness(drawn) - lightness(drawn).mean((1, 2), keepdim=True)
    own = lightness(image) - lightness(image).mean()
    assert (patterns - own).abs().max() < 1e-3
    assert (drawn - image).abs().amax((1, 2, 3)).min() > 0.02, "each hue is another"


def test_without_chroma_pictures_are_grey_and_have_half_the_contrast(image: torch.Tensor) -> None:
    (drawn,) = recolor(image[None], GREY)
    assert (drawn - drawn.mean(0)).abs().max() < 1e-3
    assert lightness(drawn).std() == pytest.approx(float(lightness(image).std()) / 2, rel=1e-3)
    assert lightness(drawn).mean() == pytest.approx(0, abs=1e-3)


def test_pixels_stay_in_range() -> None:
    drawn = recolor(torch.ones(4, 3, 8, 8).cumsum(3) / 4 - 1, RecolorConfig(contrast=(5, 5)))
    assert (drawn.min(), drawn.max()) == (-1, 1)
