"""JPEGs of photographs' sizes for measurements of decoding: scenes of the miniature world, enlarged and with noise."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from miniature.world.scenes import ScenesConfig, compose

QUALITY = 90
_SCENES = ScenesConfig(width_px=(512, 512), height_px=(384, 384))
_GRAIN = 2.0
"""Standard deviation of the noise, of 255 levels. Files then have .2 bytes a pixel at 2 MP and .15 at 12 MP;
DreamBench's photographs have .18 in the median, at about 1 MP."""


def jpegs(sizes: Sequence[tuple[int, int]]) -> list[bytes]:
    """A JPEG of each (width, height)."""
    return [enlarged(compose(number, _SCENES).image, size, number) for number, size in enumerate(sizes)]


def landscape(megapixels: float) -> tuple[int, int]:
    """Width and height of 4:3, in multiples of 8."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5 / 8) * 8
    return round(height * 4 / 3 / 8) * 8, height


def enlarged(picture: np.ndarray, size: tuple[int, int], seed: int = 0) -> bytes:
    """A JPEG of `size` (width, height) from a smaller RGB picture [H, W, 3]."""
    pixels = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, _GRAIN, (*pixels.shape[:2], 1)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
